"""The demo's product photographs: good ones and spoilt ones, each with its own product."""

from imgpipe_dagster.demo.product_files import HIGH_VALUE, product_files
from imgpipe_dagster.imaging.decode import decode_bgr


def test_every_photograph_has_its_own_name_and_product_and_some_products_are_valuable():
    files = list(product_files())
    assert len({file.name for file in files}) == len({file.sku for file in files}) == len(files)
    assert any(file.value >= HIGH_VALUE for file in files)
    assert {file.defect for file in files} > {None}


def test_a_photograph_is_a_picture_with_the_same_bytes_every_time():
    spoilt = next(file for file in product_files() if file.defect is not None)
    data = spoilt.read()
    assert decode_bgr(data).ndim == 3
    assert spoilt.read() == data
