"""Images and jobs over HTTP: rows are taken over, enhancement is asked for, and told how far it is; reviews."""

import pytest
import sqlalchemy as sa

from imgpipe_dagster.catalogue.jobs import JobKind, open_jobs
from imgpipe_dagster.catalogue.tables import EnhancedImage, ImageMetric, ProductImage, QcReviewLog
from imgpipe_dagster.sensors.jobs import tick


@pytest.fixture
def api(make_api):
    return make_api(target_min_dimension=256)


def images(*names, **values):
    url = "https://cdn.example.com/{}.jpg"
    return {"images": [{"image_url": url.format(name), "sku_id": "SKU-001", **values} for name in names]}


def test_images_are_taken_over_once_and_bad_ones_are_named(api, engine):
    body = images("a", "b", product_group_id="PG-001", image_type="side")
    assert api.post("/api/v1/import", json=body).json() == {"imported": 2, "known": 0, "rejected": 0, "errors": []}
    body["images"] += [
        {"sku_id": "SKU-001", "image_url": "ftp://x/y"},
        {"sku_id": "x" * 200, "image_url": "https://c/d"},
    ]
    again = api.post("/api/v1/import", json=body).json()
    assert (again["imported"], again["known"], again["rejected"]) == (0, 2, 2)
    assert [error["index"] for error in again["errors"]] == [2, 3]
    with engine.connect() as connection:
        rows = connection.execute(sa.select(ProductImage.sku_id, ProductImage.image_type, ProductImage.status)).all()
    assert [tuple(row) for row in rows] == [("SKU-001", "side", "pending")] * 2


@pytest.mark.parametrize(
    "body",
    [{}, [], {"images": []}, {"images": "x"}, {"images": [{}]}, {"images": [{"image_url": 7}]}, {"images": [None]}],
    ids=str,
)
def test_an_import_of_the_wrong_shape_is_refused(api, body):
    answer = api.post("/api/v1/import", json=body)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")


def test_a_job_is_accepted_told_of_and_followed(api, engine):
    api.post("/api/v1/import", json=images("a", "b", "c"))
    body = {"sku_id": "SKU-001", "mode": "full", "remove_background": True}
    answer = api.post("/api/v1/batch", json=body)
    assert answer.status_code == 202
    job = answer.json()
    assert answer.headers["Location"] == f"/api/v1/batch/{job['job_id']}"
    assert (job["status"], job["total_images"], job["processed_images"]) == ("pending", 3, 0)
    assert open_jobs(engine, JobKind.ENHANCE)[0].parameters["config"] == {"mode": "full", "background": "#FFFFFF"}
    assert tick(engine, batch_size=2, max_open_batches=1) == (1, 0)
    page = api.get(answer.headers["Location"], params={"limit": 2}).json()
    assert (page["status"], page["parameters"]) == ("processing", body)
    assert [result["status"] for result in page["results"]] == ["processing", "processing"]
    rest = api.get(answer.headers["Location"], params={"limit": 2, "cursor": page["next_cursor"]}).json()
    assert ([result["status"] for result in rest["results"]], rest["next_cursor"]) == (["pending"], None)


@pytest.mark.parametrize(
    "body",
    [{}, {"sku_id": "nobody"}, {"image_ids": []}, {"image_ids": [0]}, {"image_ids": ["x"]}, {"sku_id": 5},
     {"sku_id": "SKU-001", "mode": "magic"}, {"sku_id": "SKU-001", "background_color": "no colour"}],
    ids=str,
)  # fmt: skip
def test_a_job_about_nothing_or_with_wrong_options_is_refused(api, body):
    api.post("/api/v1/import", json=images("a"))
    answer = api.post("/api/v1/batch", json=body)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")


def test_an_unknown_job_is_404_and_a_foreign_cursor_400(api):
    assert api.get("/api/v1/batch/unknown").status_code == 404
    api.post("/api/v1/import", json=images("a"))
    where = api.post("/api/v1/batch", json={"sku_id": "SKU-001"}).headers["Location"]
    assert api.get(where, params={"cursor": "abc"}).json()["code"] == "bad_cursor"


def test_a_job_that_is_asked_for_again_with_its_key_is_the_same_job(api):
    api.post("/api/v1/import", json=images("a"))
    headers = {"Idempotency-Key": "k"}
    first, second = (api.post("/api/v1/batch", json={"sku_id": "SKU-001"}, headers=headers) for _ in range(2))
    assert (second.status_code, second.json()) == (202, first.json())
    assert second.headers["Location"] == first.headers["Location"]


@pytest.fixture
def waiting(engine):
    """Pictures 1 to 5 wait for a person."""
    with engine.begin() as connection:
        for number in range(1, 6):
            of = {"batch_key": "b", "image_id": number}
            values = {"status": "completed", "qc_status": "needs_review", "qc_priority": number / 10, "sku_id": "S"}
            made = {"object_key": f"enhanced/{number}/x.jpg", "sha256": f"{number:064d}", "mode": "auto"}
            size = {"width": 1, "height": 1, "byte_size": 1}
            values["enhanced_sha256"] = f"{number:064d}"
            connection.execute(sa.insert(ProductImage).values(id=number, batch_key="b", **values))
            made |= {"steps": [{"step": "background", "why": "x"}], "config": {}, "model_version": "e", **size}
            connection.execute(sa.insert(EnhancedImage).values(**of, **made))
            connection.execute(sa.insert(ImageMetric).values(**of, **size, phase="after", score=60))


def test_what_waits_for_a_person_comes_in_pages_the_most_urgent_first(api, waiting):
    page = api.get("/api/v1/qc/pending", params={"limit": 3}).json()
    assert [item["image_id"] for item in page["images"]] == [5, 4, 3]
    assert (page["images"][0]["score"], page["images"][0]["qc_status"]) == (60, "needs_review")
    rest = api.get("/api/v1/qc/pending", params={"limit": 3, "cursor": page["next_cursor"]}).json()
    assert ([item["image_id"] for item in rest["images"]], rest["next_cursor"]) == ([2, 1], None)


def test_a_review_as_documented_needs_no_content_type_and_is_kept_with_its_reviewer(api, engine, waiting):
    body = '{"status": "approved", "reviewer_id": "user123", "notes": "LGTM"}'
    form = {"Content-Type": "application/x-www-form-urlencoded"}  # what curl -d says
    answer = api.post("/api/v1/qc/1/review", content=body, headers=form)
    assert answer.status_code == 200, answer.text
    assert (answer.json()["qc_status"], answer.json()["status"]) == ("approved", "approved")
    assert answer.json()["enhanced_image_url"].endswith("enhanced/1/x.jpg")
    rejected = api.post("/api/v1/qc/2/review", json={"status": "rejected", "reason": "too_dark", "notes": "dark"})
    assert (rejected.json()["qc_status"], rejected.json()["rework_count"]) == ("pending", 1)
    final = api.post("/api/v1/qc/3/review", json={"status": "rejected", "reason": "unusable"})
    assert final.json()["qc_status"] == "rejected"
    with engine.connect() as connection:
        columns = (QcReviewLog.image_id, QcReviewLog.reviewer_id, QcReviewLog.status, QcReviewLog.notes)
        logs = [tuple(row) for row in connection.execute(sa.select(*columns).order_by(QcReviewLog.id))]
    assert logs == [
        (1, "user123", "approved", "LGTM"),
        (2, "this machine", "pending", "dark"),
        (3, "this machine", "rejected", None),
    ]


def test_a_review_that_cannot_be_is_refused(api, waiting):
    approved = {"status": "approved", "reviewer_id": "a"}
    assert api.post("/api/v1/qc/1/review", json=approved).status_code == 200
    for path, body, status, code in (
        ("1", approved, 409, "conflict"),
        ("77", approved, 404, "not_found"),
        ("2", {**approved, "enhanced_sha256": "f" * 64}, 409, "conflict"),
        ("2", {"status": "perhaps"}, 422, "invalid_request"),
        ("2", {"status": "rejected", "reason": "ugly"}, 422, "invalid_request"),
        ("x", approved, 422, "invalid_request"),
    ):
        answer = api.post(f"/api/v1/qc/{path}/review", json=body)
        assert (answer.status_code, answer.json()["code"]) == (status, code)
