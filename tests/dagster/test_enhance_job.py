"""The enhance job on rendered products: rows, files, verdicts, metadata, checks; and what a second run leaves alone."""

import hashlib
import json

import cv2
import numpy as np
import pytest
import sqlalchemy as sa

from imgpipe_dagster.catalogue.tables import Sku
from imgpipe_dagster.demo.products import Backdrop, Defect, degrade, render_product

SIDE = 400


def product(seed, *, backdrop=Backdrop.PLAIN, defect=None):
    image = render_product(seed, width=SIDE, height=SIDE, backdrop=backdrop).image
    image = degrade(image, defect) if defect else image
    return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()


@pytest.fixture
def batch(pipeline, make_jpeg):
    """One clean product, one severely blurred, one before clutter, one broken file, and one picture without a SKU."""
    pipeline.settings.target_min_dimension = 600
    pipeline.settings.audit_share = 0
    pipeline.write("clean.jpg", product(13))
    pipeline.write("blurred.jpg", product(5, defect=Defect.BLURRED))
    pipeline.write("cluttered.jpg", product(7, backdrop=Backdrop.CLUTTERED))
    pipeline.write("cut.jpg", make_jpeg(3)[:400])
    pipeline.write("shelf.jpg", make_jpeg(4))
    pipeline.add_files("clean.jpg", "blurred.jpg", "cluttered.jpg", "cut.jpg", sku_id="SKU-1", product_group_id="pens")
    pipeline.add_files("shelf.jpg")
    with pipeline.engine.begin() as connection:
        connection.execute(sa.insert(Sku), [{"sku_id": "SKU-1", "product_group_id": "pens", "value": 10}])
    batch = pipeline.claim()
    pipeline.run(batch)
    return batch


def enhance(pipeline, batch, **options):
    return pipeline.run(batch, job="enhance", **options)


def test_products_are_enhanced_judged_and_published(pipeline, batch):
    assert pipeline.rows("image_batches", "state", "attempt") == [("analysed", 1)]
    assert enhance(pipeline, batch).success
    assert pipeline.rows("image_batches", "state", "attempt") == [("enhanced", 1)]

    rows = pipeline.rows("enhanced_images", "image_id", "width", "height", "mode", "background_replaced", "reason")
    assert [row[0] for row in rows] == [1, 2, 3], "those with a SKU and an answer"
    assert [max(row[1:3]) for row in rows] == [600, 600, 600]
    assert {row[3:] for row in rows} >= {("auto", 1, None)}

    statuses = pipeline.rows("product_images", "id", "status", "qc_status", "enhanced_image_url IS NOT NULL")
    assert statuses == [
        (1, "completed", "auto_approved", 1),
        (2, "completed", "needs_review", 0),
        (3, "completed", "needs_review", 0),
        (4, "failed", "pending", 0),
        (5, "completed", "pending", 0),
    ]
    verdicts = pipeline.rows("published_enhancements", "image_id", "review_reasons", "enhanced_image_url IS NOT NULL")
    assert [json.loads(reasons) for _, reasons, _ in verdicts] == [[], ["low_score"], ["mask_unstable"]]
    assert [url for _, _, url in verdicts] == [1, 0, 0]


def test_a_file_is_in_the_store_under_its_image_and_the_row_has_its_hash(pipeline, batch):
    enhance(pipeline, batch)
    store = pipeline.settings.home / "store"
    for image_id, key, sha256, size, width, height in pipeline.rows(
        "enhanced_images", "image_id", "object_key", "sha256", "byte_size", "width", "height"
    ):
        data = (store / key).read_bytes()
        assert key.startswith(f"enhanced/{image_id}/")
        assert (hashlib.sha256(data).hexdigest(), len(data)) == (sha256, size)
        assert cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR).shape == (height, width, 3)
    url = dict(map(tuple, pipeline.rows("product_images", "id", "enhanced_image_url")))[1]
    key = dict(map(tuple, pipeline.rows("enhanced_images", "image_id", "object_key")))[1]
    assert url == (store / key).as_uri()
