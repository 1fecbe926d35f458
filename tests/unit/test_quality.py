"""The score of rendered products, clean and degraded."""

import itertools

import cv2
import numpy as np
import pytest

from imgpipe_dagster.demo.products import Backdrop, Defect, ProductPhoto, degrade, render_product
from imgpipe_dagster.imaging.quality import Issue, Quality, estimate_noise, score

SEEDS = range(8000, 8010)


@pytest.fixture(scope="module")
def products() -> list[ProductPhoto]:
    return [render_product(seed, width=800, height=800, backdrop=Backdrop.CLUTTERED) for seed in SEEDS]


def jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    return cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], cv2.IMREAD_COLOR)


def noisy(image: np.ndarray, sigma: float) -> np.ndarray:
    return (image + np.random.default_rng(3).normal(0, sigma, image.shape)).clip(0, 255).astype(np.uint8)


def scores(product: ProductPhoto, pictures: list[np.ndarray]) -> list[float]:
    return [score(picture, product.alpha).score for picture in pictures]


def falls(values: list[float]) -> bool:
    return all(after < before for before, after in itertools.pairwise(values))


def test_more_blur_never_scores_better(products: list[ProductPhoto]):
    for product in products:
        blurred = [cv2.GaussianBlur(product.image, (0, 0), sigma) for sigma in (1, 2, 3, 5, 8)]
        assert falls(scores(product, [product.image, *blurred]))


def test_more_noise_never_scores_better(products: list[ProductPhoto]):
    for product in products:
        assert falls(scores(product, [product.image, *(noisy(product.image, sigma) for sigma in (5, 10, 20, 40))]))


def test_stronger_compression_never_scores_better(products: list[ProductPhoto]):
    for product in products:
        assert falls(
            scores(product, [product.image, *(jpeg(product.image, quality) for quality in (80, 60, 40, 30, 20, 10, 5))])
        )


def test_whitening_the_background_hardly_moves_the_score(products: list[ProductPhoto]):
    for product in products:
        cover = (product.alpha / 255)[..., None]
        white = (cover * product.image + 255 * (1 - cover)).astype(np.uint8)
        before, after = scores(product, [product.image, white])
        assert abs(before - after) < 2


@pytest.mark.parametrize(
    "size", [(960, 960), (640, 640), (400, 700), (800, 600)], ids=lambda size: f"{size[0]}x{size[1]}"
)
def test_clean_products_score_above_75(size: tuple[int, int]):
    clean = [render_product(seed, width=size[0], height=size[1]) for seed in SEEDS]
    assert np.mean([score(product.image, product.alpha).score > 75 for product in clean]) >= 0.9


def test_the_strongest_compression_scores_lowest_where_hardly_a_coefficient_is_left():
    product = render_product(5006, width=640, height=640)
    assert score(jpeg(product.image, 1), product.alpha).components.compression < 0.1


@pytest.mark.parametrize("defect", Defect)
def test_severely_degraded_products_do_not(products: list[ProductPhoto], defect: Defect):
    low = []
    for seed, product in enumerate(products):
        spoilt = degrade(product.image, defect, seed)
        mask = cv2.resize(product.alpha, spoilt.shape[1::-1], interpolation=cv2.INTER_AREA)
        low.append(score(spoilt, mask).score <= 75)
    assert np.mean(low) >= 0.95


@pytest.mark.parametrize(
    ("defect", "issue"),
    [
        (Defect.DARK, Issue.DARK),
        (Defect.NOISY, Issue.NOISY),
        (Defect.BLURRED, Issue.BLURRY),
        (Defect.SMALL, Issue.LOW_RESOLUTION),
        (Defect.JPEG, Issue.COMPRESSED),
    ],
)
def test_the_defect_is_named(products: list[ProductPhoto], defect: Defect, issue: Issue):
    spoilt = degrade(products[0].image, defect, 5)
    mask = cv2.resize(products[0].alpha, spoilt.shape[1::-1], interpolation=cv2.INTER_AREA)
    assert issue in score(spoilt, mask).issues


def test_a_clean_product_has_no_issues(products: list[ProductPhoto]):
    assert score(products[0].image, products[0].alpha).issues == ()


def test_the_score_is_the_product_of_its_weighted_components(products: list[ProductPhoto]):
    quality = score(products[1].image, products[1].alpha)
    parts = quality.components
    expected = parts.sharpness**0.8 * parts.exposure**0.5 * parts.contrast**0.25
    expected *= parts.noise**0.85 * parts.resolution**0.4 * parts.compression**0.45
    assert quality.score == pytest.approx(100 * expected)


@pytest.mark.parametrize("sigma", [5, 12, 25])
def test_noise_is_measured_in_grey_levels(sigma: float):
    # The three channels' independent noise averages in the grey picture to 0.67 of a channel's (Rec. 601 weights).
    flat = noisy(np.full((400, 400, 3), 128, np.uint8), sigma)
    assert estimate_noise(flat) == pytest.approx(0.67 * sigma, rel=0.3)


@pytest.mark.parametrize("shape", [(1, 1), (1, 5000), (300, 20000), (9, 9)])
@pytest.mark.parametrize("level", [0, 128, 255])
def test_featureless_pictures_score_low(shape: tuple[int, int], level: int):
    quality = score(np.full((*shape, 3), level, np.uint8))
    assert isinstance(quality, Quality)
    assert 0 <= quality.score < 20
    assert Issue.LOW_CONTRAST in quality.issues


def test_an_empty_mask_judges_the_whole_picture(products: list[ProductPhoto]):
    image = products[0].image
    assert score(image, np.zeros(image.shape[:2], np.uint8)) == score(image)
