"""Human review on both databases: the queue, claims, decisions, people who race, and what may be published."""

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import make_url

from imgpipe_dagster.catalogue import batches, qc, schema
from imgpipe_dagster.catalogue.engine import connect, transact
from imgpipe_dagster.catalogue.qc_reports import published_pictures, review_figures
from imgpipe_dagster.catalogue.tables import (
    Claimant,
    EnhancedImage,
    ImageMetric,
    ProductImage,
    PublishedEnhancement,
    QcReviewLog,
    Sku,
)
from imgpipe_dagster.imaging.background import BackgroundMethod
from imgpipe_dagster.imaging.modes import EnhancementConfig
from imgpipe_dagster.imaging.rework import RejectionReason

LIMITS = qc.ReviewLimits()
DARK = RejectionReason.TOO_DARK


@pytest.fixture
def engine(database_url):
    engine = connect(make_url(database_url))
    schema.upgrade(engine)
    yield engine
    engine.dispose()


def add(engine, *priorities, qc_status="needs_review", audited=False, **image):
    """Enhanced images that stand where enhancement has put them; their ids."""

    def insert(connection):
        ids = []
        for priority in priorities:
            number = (connection.scalar(sa.select(sa.func.max(ProductImage.id))) or 0) + 1
            sha256 = f"{number:064x}"
            values = {
                "id": number,
                "sku_id": "S1",
                "image_url": f"http://cdn/{number}.jpg",
                "batch_key": "b1",
                "status": "completed",
                "qc_status": qc_status,
                "qc_priority": priority,
                "enhanced_sha256": sha256,
                "enhanced_image_url": f"store:/old/{number}.jpg" if qc_status == "auto_approved" else None,
            }
            connection.execute(sa.insert(ProductImage).values({**values, **image}))
            made(connection, number, "b1", sha256, audited=audited)
            ids.append(number)
        return ids

    return transact(engine, insert)


def made(connection, image_id, batch_key, sha256, *, audited=False):
    """The rows that the enhance job leaves about one image."""
    of_batch = {"batch_key": batch_key, "image_id": image_id}
    connection.execute(
        sa.insert(EnhancedImage).values(
            **of_batch,
            object_key=f"enhanced/{image_id}/{sha256[-6:]}.jpg",
            sha256=sha256,
            mode="full",
            config=EnhancementConfig(mode="full").as_mapping(),
            steps=[{"step": "background", "why": "mode full"}, {"step": "light", "why": "mode full"}],
            review_reasons=[],
            model_version="enhance-1",
        )
    )
    metric = {**of_batch, "components": {}, "issues": ["dark"], "width": 9, "height": 9, "byte_size": 9}
    for phase, score in (("before", 40.0), ("after", 60.0)):
        connection.execute(sa.insert(ImageMetric).values(phase=phase, score=score, **metric))
    connection.execute(
        sa.insert(PublishedEnhancement).values(
            **of_batch, qc_status="needs_review", qc_priority=1, audited=audited, review_reasons=["low_score"]
        )
    )


def approve(engine, image_id, reviewer="ann", **more):
    return qc.approve(
        engine, image_id, reviewer=reviewer, url_of=lambda key: f"store:/{key}", **{"limits": LIMITS, **more}
    )


def reject(engine, image_id, reviewer="ann", reason=DARK, **more):
    return qc.reject(engine, image_id, reviewer=reviewer, reason=reason, **{"limits": LIMITS, **more})


def image(engine, image_id):
    with engine.connect() as connection:
        return connection.execute(sa.select(ProductImage.__table__).where(ProductImage.id == image_id)).one()


def logs(engine):
    with engine.connect() as connection:
        return connection.execute(sa.select(QcReviewLog.__table__).order_by(QcReviewLog.id)).all()


def waiting(engine, **more):
    return [item.image_id for item in qc.pending_reviews(engine, **{"limits": LIMITS, **more})]


def wait_long(engine, image_id, seconds):
    """As if the claim on an image, and the decisions on it, were so much older."""
    with engine.begin() as connection:
        for table, column, key in (
            ("product_images", "qc_claimed_at", "id"),
            ("qc_review_logs", "created_at", "image_id"),
        ):
            earlier = (
                f"datetime({column}, '{-seconds:+d} seconds') || '.000000'"
                if engine.dialect.name == "sqlite"
                else f"{column} - INTERVAL {seconds} SECOND"
            )
            connection.exec_driver_sql(f"UPDATE {table} SET {column} = {earlier} WHERE {key} = {image_id}")


# --- The queue and claims ---------------------------------------------------------------------------------------------


def test_the_queue_comes_in_pages_by_priority_and_shows_what_waits_only(engine):
    priorities = [0.5, 1.9, 0.0, 1.2, 1.2, 0.1 + 0.2, 1 / 3]
    ids = add(engine, *priorities)
    add(engine, 5, qc_status="approved")
    add(engine, 5, qc_status="auto_approved")
    add(engine, 5, qc_status="pending")
    add(engine, 5, status="processing")
    expected = [ids[n] for n in sorted(range(len(ids)), key=lambda n: (priorities[n], ids[n]), reverse=True)]
    assert waiting(engine) == expected
    seen, cursor = [], None
    while page := qc.pending_reviews(engine, limits=LIMITS, after=cursor, at_most=2):
        seen += [item.image_id for item in page]
        cursor = page[-1].cursor
    assert seen == expected


def test_an_item_says_what_a_reviewer_needs(engine):
    with engine.begin() as connection:
        connection.execute(sa.insert(Sku).values(sku_id="S1", product_group_id="G1", value=12.5))
    (image_id,) = add(engine, 1.5, rework_count=1)
    (item,) = qc.pending_reviews(engine, limits=LIMITS)
    assert (item.image_id, item.sku_id, item.product_group_id, item.value) == (image_id, "S1", "G1", 12.5)
    assert (item.score_before, item.score, item.issues, item.review_reasons) == (40, 60, ("dark",), ("low_score",))
    assert (item.enhanced_key, item.rework_count, item.claimed_by) == ("enhanced/1/000001.jpg", 1, None)
    assert [step["step"] for step in item.steps] == ["background", "light"]


def test_a_claim_keeps_others_away_until_it_expires_or_is_given_back(engine):
    first, second = add(engine, 2, 1)
    assert [item.image_id for item in qc.claim_reviews(engine, reviewer="ann", limits=LIMITS)] == [first]
    assert waiting(engine, reviewer="bob") == [second]
    assert waiting(engine, reviewer="ann") == [first, second]
    with pytest.raises(qc.ClaimedError, match="claimed by ann for another"):
        qc.claim_review(engine, first, reviewer="bob", limits=LIMITS)
    for decide in (approve, reject):
        with pytest.raises(qc.ClaimedError):
            decide(engine, first, "bob")
    wait_long(engine, first, 601)
    assert qc.claim_review(engine, first, reviewer="bob", limits=LIMITS).claimed_by == "bob"
    assert not qc.release_review(engine, first, reviewer="ann"), "it is no longer hers"
    assert qc.release_review(engine, first, reviewer="bob")
    assert approve(engine, first, "cyd").qc_status == "approved"


def test_a_claim_without_a_time_does_not_last_for_ever(engine):
    (image_id,) = add(engine, 1, qc_claimed_by="ghost")
    assert waiting(engine, reviewer="ann") == [image_id]
    assert approve(engine, image_id).qc_status == "approved"


def test_a_claim_from_before_the_clock_was_set_back_ends(engine):
    (image_id,) = add(engine, 1)
    qc.claim_review(engine, image_id, reviewer="ann", limits=LIMITS)
    wait_long(engine, image_id, -300)
    with pytest.raises(qc.ClaimedError, match="for another 600 s"):
        qc.claim_review(engine, image_id, reviewer="bob", limits=LIMITS)
    wait_long(engine, image_id, -86400)
    assert waiting(engine, reviewer="bob") == [image_id]
    (item,) = qc.pending_reviews(engine, limits=LIMITS)
    assert (item.claimed_by, item.claim_left_s) == (None, None)
    assert [item.image_id for item in qc.claim_reviews(engine, reviewer="bob", limits=LIMITS)] == [image_id]
    approve(engine, image_id, "bob")
    wait_long(engine, image_id, -86400)
    with pytest.raises(qc.CannotUndoError, match="could be undone for"):
        qc.undo(engine, image_id, reviewer="bob", limits=LIMITS)


def test_racing_reviewers_claim_each_picture_once(engine):
    ids = set(add(engine, *(n / 7 for n in range(30))))

    def work(name):
        mine = []
        while items := qc.claim_reviews(engine, reviewer=name, limits=LIMITS, count=2):
            for item in items:
                mine.append(item.image_id)
                approve(engine, item.image_id, name)
        return mine

    with ThreadPoolExecutor(6) as pool:
        claimed = [image_id for mine in pool.map(work, "abcdef") for image_id in mine]
    assert Counter(claimed) == Counter(ids)
    assert len(logs(engine)) == len(ids)


# --- Decisions --------------------------------------------------------------------------------------------------------


def test_an_approval_gives_the_picture_its_url_and_is_written_down(engine):
    (image_id,) = add(engine, 1)
    qc.claim_review(engine, image_id, reviewer="ann", limits=LIMITS)
    wait_long(engine, image_id, 30)
    decision = approve(engine, image_id, notes="fine")
    row = image(engine, image_id)
    assert row.qc_status == decision.qc_status == "approved"
    assert row.enhanced_image_url == decision.enhanced_image_url == "store:/enhanced/1/000001.jpg"
    assert (row.status, row.qc_claimed_by, row.qc_claimed_at) == ("completed", None, None)
    (log,) = logs(engine)
    assert (log.id, log.image_id, log.reviewer_id, log.notes, log.score) == (
        decision.log_id,
        image_id,
        "ann",
        "fine",
        60,
    )
    assert (log.previous_status, log.status, log.reason) == ("needs_review", "approved", None)
    assert log.created_at is not None
    assert 29 < log.seconds < 90


def test_a_rejection_puts_the_image_back_with_other_settings_and_the_third_is_final(engine):
    (image_id,) = add(engine, 1)
    for count, reason, accumulated in (
        (1, RejectionReason.TOO_DARK, {"light": 1.5}),
        (2, RejectionReason.MASK_TORN, {"light": 1.5, "method": "rembg"}),
    ):
        decision = reject(engine, image_id, reason=reason)
        row = image(engine, image_id)
        assert (row.status, row.qc_status, row.rework_count) == ("pending", "pending", count)
        assert (row.rework_config, row.enhanced_image_url, row.batch_key) == (accumulated, None, f"b{count}")
        assert accumulated | dict(decision.rework) == accumulated
        batch = batches.claim_batch(engine, batches.BatchLimits(max_wait_s=0), Claimant.SENSOR)
        assert batch.image_count == 1, "it is an image that waits, like any other"
        with engine.begin() as connection:
            made(connection, image_id, f"b{count + 1}", "f" * 63 + str(count))
            connection.execute(
                sa.update(ProductImage).values(
                    status="completed",
                    qc_status="needs_review",
                    batch_key=f"b{count + 1}",
                    enhanced_sha256="f" * 63 + str(count),
                )
            )
    decision = reject(engine, image_id)
    row = image(engine, image_id)
    assert (row.status, row.qc_status, row.rework_count) == ("completed", "rejected", 2)
    assert row.enhanced_image_url is None
    assert decision.qc_status == "rejected"
    assert [(log.status, log.reason) for log in logs(engine)] == [
        ("pending", "too_dark"),
        ("pending", "mask_torn"),
        ("rejected", "too_dark"),
    ]


def test_a_rejection_that_no_setting_can_mend_is_final_at_once(engine):
    first, second = add(engine, 1, 1)
    assert reject(engine, first, reason=RejectionReason.UNUSABLE).qc_status == "rejected"
    only = [BackgroundMethod.GRABCUT]
    assert reject(engine, second, reason=RejectionReason.MASK_TORN, methods=only).qc_status == "rejected"


def test_a_background_that_was_kept_is_not_kept_once_more(engine):
    (image_id,) = add(engine, 1)
    with engine.begin() as connection:
        connection.execute(sa.update(EnhancedImage).values(steps=[], review_reasons=["mask_unstable"]))
    methods = [BackgroundMethod.GRABCUT, BackgroundMethod.KEEP]
    assert reject(engine, image_id, reason=RejectionReason.MASK_TORN, methods=methods).qc_status == "rejected"


def test_a_decision_is_about_the_file_that_was_seen(engine):
    (image_id,) = add(engine, 1)
    with pytest.raises(qc.NotReviewableError, match="has changed since"):
        approve(engine, image_id, sha256="0" * 64)
    with engine.begin() as connection:  # the enhance job is at work: its verdict has not come yet
        connection.execute(sa.update(EnhancedImage).values(sha256="e" * 64))
    for decide in (approve, reject):
        with pytest.raises(qc.NotReviewableError, match="has changed since"):
            decide(engine, image_id)
    assert logs(engine) == []


def test_what_could_not_be_enhanced_cannot_be_approved(engine):
    (image_id,) = add(engine, 1, enhanced_sha256=None)
    with engine.begin() as connection:
        connection.execute(sa.update(EnhancedImage).values(object_key=None, sha256=None, reason="config_invalid"))
    with pytest.raises(qc.NotReviewableError, match="config_invalid"):
        approve(engine, image_id)
    assert reject(engine, image_id).qc_status == "pending"


def test_the_second_to_decide_is_told_by_whom(engine):
    first, second, third = add(engine, 1, 2, 3)
    approve(engine, first, "ann")
    with pytest.raises(qc.AlreadyDecidedError, match=rf"Image {first} was approved by ann at 20\d\d-"):
        reject(engine, first, "bob")
    reject(engine, second, "ann")
    with pytest.raises(qc.AlreadyDecidedError, match="rejected \\(too_dark\\) to be enhanced again by ann"):
        approve(engine, second, "bob")
    reject(engine, third, "ann", RejectionReason.UNUSABLE)
    with pytest.raises(qc.AlreadyDecidedError, match="rejected \\(unusable\\) by ann"):
        qc.claim_review(engine, third, reviewer="bob", limits=LIMITS)
    assert len(logs(engine)) == 3


@pytest.mark.parametrize("status", ["pending", "processing", "failed"])
def test_what_does_not_wait_cannot_be_decided(engine, status):
    (passed,) = add(engine, 1, qc_status="auto_approved")
    (again,) = add(engine, 1, status=status)
    (new,) = add(engine, 1, qc_status="pending")
    for image_id in (passed, again, new):
        for decide in (approve, reject):
            with pytest.raises(qc.NotReviewableError):
                decide(engine, image_id)
    with pytest.raises(qc.UnknownImageError):
        approve(engine, 999)
    with pytest.raises(ValueError, match="name"):
        approve(engine, new, reviewer=" ")
    assert logs(engine) == []


@pytest.mark.parametrize("attempt", range(3))
def test_of_people_who_decide_at_once_one_wins_and_the_others_are_told(engine, attempt):
    (image_id,) = add(engine, 1)
    people = 8
    start = threading.Barrier(people)

    def decide(number):
        start.wait()
        try:
            (approve if number % 2 else reject)(engine, image_id, f"person-{number}")
        except qc.AlreadyDecidedError as error:
            return str(error)
        return None

    with ThreadPoolExecutor(people) as pool:
        told = list(pool.map(decide, range(people)))
    (winner,) = (number for number, message in enumerate(told) if message is None)
    assert all(f"by person-{winner} at" in message for message in told if message is not None)
    (log,) = logs(engine)
    assert log.reviewer_id == f"person-{winner}"
    row = image(engine, image_id)
    assert row.qc_status == log.status == ("approved" if winner % 2 else "pending")
    assert (row.enhanced_image_url is not None) == bool(winner % 2)


def test_an_approved_picture_can_be_withdrawn(engine):
    (passed,) = add(engine, 1, qc_status="auto_approved")
    (chosen,) = add(engine, 1)
    with pytest.raises(qc.NotReviewableError, match="waits for its review"):
        reject(engine, chosen, withdraw=True)
    approve(engine, chosen)
    for image_id in (passed, chosen):
        reject(engine, image_id, "bob", withdraw=True)
        row = image(engine, image_id)
        assert (row.qc_status, row.enhanced_image_url, row.status) == ("pending", None, "pending")
        with pytest.raises(qc.AlreadyDecidedError, match="by bob"):
            reject(engine, image_id, "ann", withdraw=True)


# --- Undo -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("decide", [approve, reject])
def test_a_decision_is_undone_whole_and_the_undoing_is_written_down(engine, decide):
    (image_id,) = add(engine, 1.5, rework_count=1, rework_config={"sharpen": 1.0})
    qc.claim_review(engine, image_id, reviewer="ann", limits=LIMITS)
    before = image(engine, image_id)
    decide(engine, image_id)
    decision = qc.undo(engine, image_id, reviewer="ann", limits=LIMITS)
    after = image(engine, image_id)
    changed = {"qc_claimed_at", "updated_at"}
    assert {k: v for k, v in after._mapping.items() if k not in changed} == {
        k: v for k, v in before._mapping.items() if k not in changed
    }
    first, second = logs(engine)
    assert (second.id, second.undoes_id, second.status) == (decision.log_id, first.id, "needs_review")
    assert waiting(engine, reviewer="bob") == [], "it is still hers"
    with pytest.raises(qc.CannotUndoError, match="no decision"):
        qc.undo(engine, image_id, reviewer="ann", limits=LIMITS)
    assert approve(engine, image_id).qc_status == "approved"


def test_an_undone_withdrawal_leaves_the_picture_published(engine):
    (image_id,) = add(engine, 1, qc_status="auto_approved")
    reject(engine, image_id, withdraw=True)
    assert qc.undo(engine, image_id, reviewer="ann", limits=LIMITS).qc_status == "auto_approved"
    row = image(engine, image_id)
    assert (row.qc_status, row.status, row.qc_claimed_by) == ("auto_approved", "completed", None)
    assert row.enhanced_image_url == f"store:/old/{image_id}.jpg"


def test_only_the_own_last_and_recent_decision_without_consequences_is_undone(engine):
    first, second, third = add(engine, 1, 2, 3)
    with pytest.raises(qc.CannotUndoError, match="no decision"):
        qc.undo(engine, first, reviewer="ann", limits=LIMITS)
    approve(engine, first, "ann")
    with pytest.raises(qc.CannotUndoError, match="ann's, not bob's"):
        qc.undo(engine, first, reviewer="bob", limits=LIMITS)
    wait_long(engine, first, 11)
    with pytest.raises(qc.CannotUndoError, match="could be undone for 10 s"):
        qc.undo(engine, first, reviewer="ann", limits=LIMITS)
    reject(engine, second, "ann")
    batches.claim_batch(engine, batches.BatchLimits(max_wait_s=0), Claimant.SENSOR)
    approve(engine, third, "ann")
    with engine.begin() as connection:  # somebody wants it processed again
        connection.execute(sa.update(ProductImage).where(ProductImage.id == third).values(status="pending"))
    for image_id in (second, third):
        with pytest.raises(qc.CannotUndoError, match="processed again"):
            qc.undo(engine, image_id, reviewer="ann", limits=LIMITS)
    with pytest.raises(qc.UnknownImageError):
        qc.undo(engine, 999, reviewer="ann", limits=LIMITS)


def test_a_decision_is_undone_once_by_racing_clicks(engine):
    (image_id,) = add(engine, 1)
    approve(engine, image_id)
    start = threading.Barrier(4)

    def click(_number):
        start.wait()
        try:
            qc.undo(engine, image_id, reviewer="ann", limits=LIMITS)
        except qc.CannotUndoError:
            return False
        return True

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(click, range(4))) == 1
    assert len(logs(engine)) == 2


# --- Figures and export -----------------------------------------------------------------------------------------------


def test_figures_count_decisions_by_reviewer_reason_and_day_without_those_undone(engine):
    plain = add(engine, 1, 2, 3)
    drawn = add(engine, 4, 5, 6, audited=True)
    qc.claim_review(engine, plain[0], reviewer="ann", limits=LIMITS)
    wait_long(engine, plain[0], 20)
    approve(engine, plain[0], "ann")
    reject(engine, plain[1], "bob")
    reject(engine, plain[2], "bob", RejectionReason.UNUSABLE)
    approve(engine, drawn[0], "ann")
    approve(engine, drawn[1], "ann")
    reject(engine, drawn[2], "bob")
    qc.undo(engine, drawn[2], reviewer="bob", limits=LIMITS)
    reject(engine, drawn[2], "bob")
    figures = review_figures(engine)
    assert figures["images"] == {"approved": 3, "pending": 2, "rejected": 1}
    assert {name: figures[name] for name in ("decisions", "approved", "reworked", "rejected")} == {
        "decisions": 6,
        "approved": 3,
        "reworked": 2,
        "rejected": 1,
    }
    assert figures["rejection_reasons"] == {"too_dark": 2, "unusable": 1}
    assert figures["audit"] == {"decided": 3, "agreed": 2, "agreement": 0.667}
    ann, bob = figures["reviewers"]
    assert (ann["reviewer_id"], ann["decisions"], ann["audit"]["agreement"]) == ("ann", 3, 1.0)
    assert 19 < ann["mean_seconds"] < 60
    assert (bob["reviewer_id"], bob["reworked"], bob["rejected"], bob["audit"]["agreement"]) == ("bob", 2, 1, 0.0)
    assert sum(day["decisions"] for day in figures["days"]) == 6
    assert all(len(day["day"]) == 10 for day in figures["days"])
    wait_long(engine, plain[0], 3 * 86400)
    assert review_figures(engine, days=2)["decisions"] == 5
    assert review_figures(engine, days=4)["decisions"] == 6


def test_figures_of_nothing_are_zeros(engine):
    figures = review_figures(engine)
    assert (figures["decisions"], figures["mean_seconds"], figures["reviewers"], figures["days"]) == (0, None, [], [])


def test_what_is_published_is_what_was_approved(engine, monkeypatch):
    monkeypatch.setattr("imgpipe_dagster.catalogue.qc_reports._CHUNK", 2)
    chosen = add(engine, 1, 2, 3)
    passed = add(engine, 1, 2, qc_status="auto_approved")
    add(engine, 1, 2)
    for image_id in chosen[:2]:
        approve(engine, image_id)
    reject(engine, chosen[2])
    rows = list(published_pictures(engine))
    assert [row["image_id"] for row in rows] == [*chosen[:2], *passed]
    assert rows[0]["enhanced_image_url"] == "store:/enhanced/1/000001.jpg"
