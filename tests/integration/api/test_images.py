"""Reading through the API: pages, one image with all its answers, its files with ETag and range."""

import datetime as dt
import hashlib

import cv2
import numpy as np
import pytest
import sqlalchemy as sa

from imgpipe_dagster.catalogue.api_keys import create_key
from imgpipe_dagster.catalogue.tables import (
    Detection,
    EnhancedImage,
    ImageMetric,
    ImagePrediction,
    MetadataReport,
    ProductImage,
    PublishedEnhancement,
    RawImage,
    ValidatedImage,
)
from imgpipe_dagster.store.keys import enhanced_key, image_key, report_key
from imgpipe_dagster.store.local import LocalStore

BATCH = "20261120-000001"
ID = 7


def jpeg(width=64, height=48, shade=200):
    return cv2.imencode(".jpg", np.full((height, width, 3), shade, np.uint8))[1].tobytes()


@pytest.fixture
def files(home):
    """The store's files of image 7."""
    store = LocalStore(home / "store")
    made = {"original": jpeg(), "enhanced": jpeg(shade=255), "report": b'{"image_id": 7}', "page": b"<script>alert(1)"}
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in made.items()}
    keys = {
        "original": image_key(digests["original"], "jpg"),
        "enhanced": enhanced_key(ID, "config", "jpg"),
        "report": report_key(ID),
        "page": image_key(digests["page"], "bin"),
    }
    for name, data in made.items():
        store.put(keys[name], data)
    return {name: {"data": made[name], "sha256": digests[name], "object_key": keys[name]} for name in made}


def point(file):
    return {"object_key": file["object_key"], "sha256": file["sha256"], "byte_size": len(file["data"])}


@pytest.fixture
def catalogue(engine, files):
    """Image 7 with everything, 8 rejected, 9 waiting."""
    of = {"batch_key": BATCH, "image_id": ID}
    box = {"class_id": 0, "x1": 8, "y1": 8, "x2": 40, "y2": 40, "model_version": "d-1", **of}
    rows = [
        (ProductImage, {"id": ID, "sku_id": "S1", "status": "completed", "qc_status": "needs_review"}),
        (ProductImage, {"id": 8, "status": "failed", "reason": "not_an_image"}),
        (ProductImage, {"id": 9, "status": "pending", "batch_key": None}),
        (RawImage, {**point(files["original"]), "fetch_attempts": 1, "fetch_seconds": 0.1, **of}),
        (RawImage, {**point(files["page"]), "fetch_attempts": 1, "fetch_seconds": 0.1, **of, "image_id": 8}),
        (ValidatedImage, {"object_key": files["original"]["object_key"], "sha256": files["original"]["sha256"],
                          "image_format": "jpeg", "width": 64, "height": 48, **of}),
        (ValidatedImage, {"object_key": files["page"]["object_key"], "reason": "not_an_image", **of, "image_id": 8}),
        (ImagePrediction, {"status": "predicted", "object_count": 2, "top_class": "can", "top_confidence": 0.9, **of}),
        (ImagePrediction, {"status": "rejected", "reason": "not_an_image", "object_count": 0, **of, "image_id": 8}),
        (Detection, {**box, "detection_id": "a", "class_name": "can", "confidence": 0.5}),
        (Detection, {**box, "detection_id": "b", "class_name": "bottle", "class_id": 1, "confidence": 0.9}),
        (Detection, {**box, "detection_id": "c", "class_name": "old", "batch_key": "before", "confidence": 0.9}),
        (MetadataReport, {**point(files["report"]), **of}),
        (EnhancedImage, {**point(files["enhanced"]), "width": 64, "height": 48, "image_format": "jpeg", "mode": "auto",
                         "steps": [{"step": "light", "why": "dark"}], "model_version": "e-1", **of}),
        (ImageMetric, {"phase": "before", "score": 50, "width": 64, "height": 48, "byte_size": 9, **of}),
        (ImageMetric, {"phase": "after", "score": 80, "width": 64, "height": 48, "byte_size": 9, "issues": [], **of}),
        (PublishedEnhancement, {"qc_status": "needs_review", "qc_priority": 1, "audited": False,
                                "review_reasons": ["audit"], **of}),
    ]  # fmt: skip
    with engine.begin() as connection:
        for table, values in rows:
            own = {"batch_key": BATCH} if table is ProductImage else {}
            connection.execute(sa.insert(table), [{**own, **values}])
    return engine


@pytest.fixture
def api(make_api, catalogue):
    return make_api()


def test_images_are_listed_with_their_answers_page_by_page(api):
    first = api.get("/api/v1/images", params={"limit": 2}).json()
    assert [image["id"] for image in first["images"]] == [7, 8]
    assert first["images"][0]["top_class"] == "can"
    assert first["images"][0]["created_at"].endswith("Z")
    second = api.get("/api/v1/images", params={"limit": 2, "cursor": first["next_cursor"]}).json()
    assert ([image["id"] for image in second["images"]], second["next_cursor"]) == ([9], None)
    assert second["images"][0]["object_count"] is None


@pytest.mark.parametrize(
    ("question", "ids"),
    [
        ({"status": "failed"}, [8]),
        ({"sku_id": "S1"}, [7]),
        ({"class": "bottle"}, [7]),
        ({"class": "old"}, []),
        ({"reason": "not_an_image"}, [8]),
        ({"created_from": "2020-01-01T00:00:00Z", "created_to": "2100-01-01T00:00:00+02:00"}, [7, 8, 9]),
        ({"created_to": "2020-01-01T00:00:00Z"}, []),
        ({"temple_id": "' OR 1=1 --"}, []),
    ],
)
def test_images_are_found_by(api, question, ids):
    assert [image["id"] for image in api.get("/api/v1/images", params=question).json()["images"]] == ids


@pytest.mark.parametrize(
    "question",
    [
        {"status": "nonsense"},
        {"reason": "nonsense"},
        {"limit": 0},
        {"limit": 501},
        {"created_from": "2026-11-20T00:00:00"},  # without a zone it means another time to everybody
        {"created_from": "0001-01-01T00:00:00+23:59"},
    ],
)
def test_a_question_that_means_nothing_is_422(api, question):
    assert api.get("/api/v1/images", params=question).json()["code"] == "invalid_request"


def test_a_cursor_is_good_for_its_own_question_only(api):
    cursor = api.get("/api/v1/images", params={"limit": 1}).json()["next_cursor"]
    for params in (
        {"cursor": cursor, "status": "failed"},
        {"cursor": "nonsense!"},
        {"cursor": "WyJ4IiwgMV0"},
        {"cursor": ""},
    ):
        answer = api.get("/api/v1/images", params=params)
        assert (answer.status_code, answer.json()["code"]) == (400, "bad_cursor"), params


def test_one_image_is_told_with_every_answer_that_counts(api):
    image = api.get(f"/api/v1/images/{ID}").json()
    assert (image["file"]["width"], image["file"]["format"]) == (64, "jpeg")
    assert [item["class_name"] for item in image["prediction"]["objects"]] == ["bottle", "can"]
    assert (image["enhancement"]["before"]["score"], image["enhancement"]["after"]["score"]) == (50, 80)
    assert image["enhancement"]["review_reasons"] == ["audit"]
    assert set(image["links"]) == {"report", "original", "annotated", "enhanced"}
    for link in image["links"].values():
        assert api.get(link).status_code == 200
    rejected = api.get("/api/v1/images/8").json()
    assert rejected["prediction"]["advice"].startswith("The content is not an image")
    waiting = api.get("/api/v1/images/9").json()
    assert (waiting["file"], waiting["prediction"], waiting["enhancement"], waiting["links"]) == (None, None, None, {})


@pytest.mark.parametrize("path", ["", "/report", "/original", "/annotated", "/enhanced"])
def test_what_is_not_there_is_404(api, path):
    assert api.get(f"/api/v1/images/12345{path}").json()["code"] == "not_found"
    if path:
        assert api.get(f"/api/v1/images/9{path}").json()["code"] == "not_found"


@pytest.mark.parametrize("number", ["0", "-1", "x", "9223372036854775808", "1.5"])
def test_an_id_that_is_none_is_422(api, number):
    assert api.get(f"/api/v1/images/{number}").status_code == 422


def test_a_file_that_the_client_has_is_not_sent_again(api, files):
    path = f"/api/v1/images/{ID}/original"
    first = api.get(path)
    assert (first.content, first.headers["content-type"]) == (files["original"]["data"], "image/jpeg")
    again = api.get(path, headers={"If-None-Match": f'W/{first.headers["ETag"]}, "other"'})
    assert (again.status_code, again.content, again.headers["ETag"]) == (304, b"", first.headers["ETag"])
    assert api.get(path, headers={"If-None-Match": '"other"'}).status_code == 200
    drawn = api.get(f"/api/v1/images/{ID}/annotated")
    again = api.get(f"/api/v1/images/{ID}/annotated", headers={"If-None-Match": drawn.headers["ETag"]})
    assert (drawn.status_code, again.status_code) == (200, 304)


def test_part_of_a_file_is_had_by_range(api, files):
    data, path = files["original"]["data"], f"/api/v1/images/{ID}/original"
    size = len(data)
    for asked, part in {
        "bytes=0-9": data[:10],
        "bytes=10-": data[10:],
        "bytes=-5": data[-5:],
        f"bytes=5-{size + 100}": data[5:],
        f"bytes=-{size + 100}": data,
    }.items():
        answer = api.get(path, headers={"Range": asked})
        assert (answer.status_code, answer.content) == (206, part), asked
        first = data.index(part) if part != data else 0
        assert answer.headers["Content-Range"] == f"bytes {first}-{first + len(part) - 1}/{size}"
    for asked in (f"bytes={size}-", "bytes=9-5", "bytes=-0"):
        answer = api.get(path, headers={"Range": asked})
        assert (answer.status_code, answer.headers["Content-Range"]) == (416, f"bytes */{size}"), asked
    for ignored in ("bytes=0-1,5-6", "items=0-1", "bytes=-", "nonsense"):
        assert api.get(path, headers={"Range": ignored}).status_code == 200, ignored
    etag = api.get(path).headers["ETag"]
    assert api.get(path, headers={"Range": "bytes=0-9", "If-Range": etag}).status_code == 206
    assert api.get(path, headers={"Range": "bytes=0-9", "If-Range": '"older"'}).status_code == 200


def test_objects_are_drawn_into_the_annotated_picture(api):
    answer = api.get(f"/api/v1/images/{ID}/annotated")
    picture = cv2.imdecode(np.frombuffer(answer.content, np.uint8), cv2.IMREAD_COLOR)
    assert picture.shape == (48, 64, 3)
    assert np.abs(picture.astype(int) - 200).max() > 100


def test_what_was_no_picture_is_never_handed_out_as_a_page(api, files):
    answer = api.get("/api/v1/images/8/original")
    assert answer.content == files["page"]["data"]
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert "sandbox" in answer.headers["Content-Security-Policy"]


def test_an_enhanced_picture_is_for_reviewers_until_it_is_approved(make_api, catalogue, files):
    reader = create_key(catalogue, "reader", ["read"])
    reviewer = create_key(catalogue, "reviewer", ["read", "review"])
    api = make_api()
    path = f"/api/v1/images/{ID}/enhanced"
    assert api.get(path, headers={"X-API-Key": reader}).status_code == 404
    assert api.get(path, headers={"X-API-Key": reviewer}).content == files["enhanced"]["data"]
    with catalogue.begin() as connection:
        connection.execute(sa.update(ProductImage).where(ProductImage.id == ID).values(qc_status="approved"))
    assert api.get(path, headers={"X-API-Key": reader}).content == files["enhanced"]["data"]


def test_a_file_that_has_gone_from_the_store_is_404(api, files, home):
    (home / "store" / files["original"]["object_key"]).unlink()
    assert api.get(f"/api/v1/images/{ID}/original").json()["code"] == "not_found"
    assert api.get(f"/api/v1/images/{ID}/annotated").json()["code"] == "not_found"


def test_times_are_told_in_utc(api):
    told = dt.datetime.fromisoformat(api.get(f"/api/v1/images/{ID}").json()["created_at"])
    assert abs((dt.datetime.now(dt.UTC) - told).total_seconds()) < 300
