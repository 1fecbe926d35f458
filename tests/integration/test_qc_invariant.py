"""Over every order of enhancing, deciding, undoing and processing again: only what is approved has a URL to export."""

import itertools
from typing import ClassVar

import hypothesis.strategies as st
import pandas as pd
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from sqlalchemy.engine import make_url

from imgpipe_dagster.catalogue import batches, qc, schema
from imgpipe_dagster.catalogue.engine import connect
from imgpipe_dagster.catalogue.frames import replace_batch
from imgpipe_dagster.catalogue.publishing import publish_batch, publish_enhancements
from imgpipe_dagster.catalogue.qc_reports import published_pictures
from imgpipe_dagster.catalogue.tables import Claimant, ProductImage, QcReviewLog
from imgpipe_dagster.imaging.modes import EnhancementConfig
from imgpipe_dagster.imaging.rework import RejectionReason

LIMITS = qc.ReviewLimits()
IMAGES = 3
PUBLISHED = {"approved", "auto_approved"}

images = st.integers(1, IMAGES)
people = st.sampled_from(["ann", "bob"])
reasons = st.sampled_from([RejectionReason.TOO_DARK, RejectionReason.TOO_SMALL, RejectionReason.UNUSABLE])


class Review(RuleBasedStateMachine):
    """Three images of one SKU, two reviewers, the sensor and both jobs."""

    url: ClassVar[str]

    @initialize(passes=st.lists(st.booleans(), min_size=IMAGES, max_size=IMAGES))
    def begin(self, passes):
        self.engine = connect(make_url(self.url))
        schema.upgrade(self.engine)
        with self.engine.begin() as connection:
            connection.execute(sa.delete(ProductImage))
            connection.execute(sa.delete(QcReviewLog))
            for number in range(1, IMAGES + 1):
                connection.execute(
                    sa.insert(ProductImage).values(id=number, sku_id="S", image_url=f"http://cdn/{number}")
                )
        self.names = itertools.count()
        self.decisions = 0
        self.keys: list[str] = []
        self.claim_analyse_and_enhance(passes, None)

    def teardown(self):
        self.engine.dispose()

    @rule(
        passes=st.lists(st.booleans(), min_size=IMAGES, max_size=IMAGES), fails=st.sampled_from([None, None, None, 1])
    )
    def claim_analyse_and_enhance(self, passes, fails):
        batch = batches.claim_batch(self.engine, batches.BatchLimits(max_wait_s=0), Claimant.SENSOR)
        if batch is None:
            return
        self.keys.append(batch.key)
        ids = self.counting(batch.key)
        answers = pd.DataFrame({"image_id": ids, "status": "completed", "reason": None})
        answers.loc[answers["image_id"] == fails, ["status", "reason"]] = "failed", "http_not_found"
        publish_batch(self.engine, "published_predictions", batch.key, answers)
        self.enhance(batch.key, passes)

    @rule(
        passes=st.lists(st.booleans(), min_size=IMAGES, max_size=IMAGES), number=st.integers(0, 3), same=st.booleans()
    )
    def enhance_again(self, passes, number, same):
        """A backfill of an old partition, whose bytes are the same or not."""
        if self.keys:
            self.enhance(self.keys[number % len(self.keys)], passes, same=same)

    def enhance(self, key, passes, *, same=False):
        ids = self.counting(key)
        old = {row.id: row.enhanced_sha256 for row in self.rows()}
        files = {n: (same and old[n]) or f"{next(self.names):064x}" for n in ids}
        made = [
            {
                "image_id": n,
                "object_key": f"enhanced/{n}/{files[n]}.jpg",
                "sha256": files[n],
                "mode": "full",
                "config": EnhancementConfig(mode="full").as_mapping(),
                "steps": [],
                "review_reasons": [],
                "model_version": "m",
            }
            for n in ids
        ]
        verdicts = [
            {
                "image_id": n,
                "sha256": files[n],
                "qc_priority": n / 7,
                "audited": False,
                "qc_status": "auto_approved" if passes[n - 1] else "needs_review",
                "enhanced_image_url": f"store:/{files[n]}" if passes[n - 1] else None,
            }
            for n in ids
        ]
        replace_batch(self.engine, "enhanced_images", key, pd.DataFrame(made))
        publish_enhancements(
            self.engine,
            "published_enhancements",
            key,
            pd.DataFrame(
                verdicts,
                columns=[
                    "image_id",
                    "sha256",
                    "qc_priority",
                    "audited",
                    "qc_status",
                    "enhanced_image_url",
                ],
            ),
        )

    def counting(self, key):
        with self.engine.connect() as connection:
            return connection.scalars(
                sa.select(ProductImage.id).where(ProductImage.batch_key == key).order_by(ProductImage.id)
            ).all()

    def attempt(self, decide):
        try:
            decide()
        except qc.ReviewError:
            return
        self.decisions += 1

    @rule(image_id=images, reviewer=people)
    def approve(self, image_id, reviewer):
        self.attempt(
            lambda: qc.approve(
                self.engine, image_id, reviewer=reviewer, url_of=lambda key: f"store:/{key}", limits=LIMITS
            )
        )

    @rule(image_id=images, reviewer=people, reason=reasons, mistaken=st.booleans())
    def reject(self, image_id, reviewer, reason, mistaken):
        """Mostly as its state asks for; by mistake also the other way."""
        withdraw = (self.rows()[image_id - 1].qc_status in PUBLISHED) != mistaken
        self.attempt(
            lambda: qc.reject(self.engine, image_id, reviewer=reviewer, reason=reason, withdraw=withdraw, limits=LIMITS)
        )

    @rule(image_id=images, reviewer=people)
    def undo(self, image_id, reviewer):
        self.attempt(lambda: qc.undo(self.engine, image_id, reviewer=reviewer, limits=LIMITS))

    @rule(reviewer=people)
    def claim(self, reviewer):
        for item in qc.claim_reviews(self.engine, reviewer=reviewer, limits=LIMITS):
            assert item.claimed_by == reviewer

    @rule(image_id=images, reviewer=people)
    def release(self, image_id, reviewer):
        qc.release_review(self.engine, image_id, reviewer=reviewer)

    @rule(image_id=images)
    def process_again(self, image_id):
        """As a job or `imgpipe retry` does."""
        with self.engine.begin() as connection:
            connection.execute(
                sa.update(ProductImage)
                .where(ProductImage.id == image_id, ProductImage.status.in_(["completed", "failed"]))
                .values(status="pending")
            )

    def rows(self):
        with self.engine.connect() as connection:
            return connection.execute(sa.select(ProductImage.__table__).order_by(ProductImage.id)).all()

    @invariant()
    def only_what_is_approved_has_a_url(self):
        rows = self.rows()
        assert [
            (row.id, row.qc_status)
            for row in rows
            if (row.enhanced_image_url is not None) != (row.qc_status in PUBLISHED)
        ] == []
        assert [row["image_id"] for row in published_pictures(self.engine)] == [
            row.id for row in rows if row.qc_status in PUBLISHED
        ]

    @invariant()
    def every_decision_has_one_row_and_reworks_are_few(self):
        with self.engine.connect() as connection:
            assert connection.scalar(sa.select(sa.func.count()).select_from(QcReviewLog)) == self.decisions
        assert all(row.rework_count <= LIMITS.max_reworks for row in self.rows())
        assert all(row.qc_claimed_by is None for row in self.rows() if row.qc_status != "needs_review")


@pytest.mark.timeout(280)
def test_nothing_that_waits_or_was_rejected_has_a_url_in_any_order_of_events(tmp_path):
    Review.url = f"sqlite:///{tmp_path}/catalogue.db"
    run_state_machine_as_test(
        Review,
        settings=settings(
            max_examples=40,
            stateful_step_count=30,
            deadline=None,
            database=None,
            derandomize=True,
            phases=[Phase.generate],  # shrinking would take minutes: the steps are few
            suppress_health_check=list(HealthCheck),
        ),
    )
