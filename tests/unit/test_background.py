"""Cutting rendered products, whose alpha is known, out of plain and cluttered scenes."""

import sys
import types

import cv2
import numpy as np
import pytest

from imgpipe_dagster.demo.products import Backdrop, Defect, ProductPhoto, degrade, render_product
from imgpipe_dagster.imaging import background
from imgpipe_dagster.imaging.backdrop import plain_backdrop_mask
from imgpipe_dagster.imaging.background import (
    BackgroundMethod,
    MaskFault,
    MethodUnavailableError,
    remove_background,
)
from imgpipe_dagster.imaging.box_prior import subjects
from imgpipe_dagster.imaging.matting import product_colours
from imgpipe_dagster.imaging.outline import open_share, share_along_limit, without_leaks

SEEDS = range(7000, 7030)


def overlap(alpha: np.ndarray, reference: np.ndarray) -> float:
    found, wanted = alpha > 127, reference > 127
    return float((found & wanted).sum() / (found | wanted).sum())


def photo(seed: int, backdrop: Backdrop = Backdrop.PLAIN) -> ProductPhoto:
    return render_product(seed, width=640, height=640, backdrop=backdrop)


def on_backdrop(product: ProductPhoto, backdrop: np.ndarray) -> np.ndarray:
    cover = (product.alpha / 255)[..., None]
    return (cover * product.image + (1 - cover) * backdrop).round().astype(np.uint8)


def test_products_before_plain_backdrops_are_found_by_the_border_alone():
    overlaps = []
    for seed in SEEDS:
        product = photo(seed)
        cutout = remove_background(product.image)
        assert cutout.plausible, (seed, cutout.fault)
        overlaps.append(overlap(cutout.alpha, product.alpha))
    assert np.mean(overlaps) >= 0.95
    assert min(overlaps) >= 0.85


def test_products_in_cluttered_scenes_are_found_with_a_box():
    overlaps = []
    for seed in SEEDS:
        product = photo(seed, Backdrop.CLUTTERED)
        overlaps.append(overlap(remove_background(product.image, boxes=[product.box]).alpha, product.alpha))
    assert np.mean(overlaps) >= 0.9


def test_the_same_picture_gives_the_same_mask():
    product = photo(1, Backdrop.CLUTTERED)
    first = remove_background(product.image, boxes=[product.box])
    cv2.setRNGSeed(12345)
    second = remove_background(product.image, boxes=[product.box])
    np.testing.assert_array_equal(first.alpha, second.alpha)


def test_a_cluttered_scene_without_boxes_is_mostly_not_trusted_and_right_where_it_is():
    trusted = []
    for seed in SEEDS[:12]:
        product = photo(seed, Backdrop.CLUTTERED)
        cutout = remove_background(product.image)
        if cutout.plausible:
            trusted.append(overlap(cutout.alpha, product.alpha))
    assert len(trusted) <= 6
    assert all(value > 0.7 for value in trusted), trusted


def test_a_bystander_with_a_small_box_is_left_out():
    product = photo(7002)
    scene = product.image.copy()
    cv2.circle(scene, (40, 560), 22, (20, 30, 200), -1)
    cutout = remove_background(scene, boxes=[product.box, (18, 538, 62, 582)])
    assert overlap(cutout.alpha, product.alpha) > 0.95
    assert cutout.alpha[560, 40] == 0


def test_what_holds_the_surest_box_is_no_product_and_what_it_holds_is_none_of_its_own():
    cup, table, spoon, saucer = (100, 80, 300, 280), (10, 20, 590, 470), (120, 100, 140, 200), (90, 60, 320, 300)
    assert subjects([cup, table, spoon], 600, 480) == [cup]
    assert subjects([table, cup], 600, 480) == [table]
    assert subjects([cup, saucer], 600, 480) == [cup, saucer]
    assert subjects([], 600, 480) == []


def figure_before_two_walls() -> tuple[np.ndarray, np.ndarray]:
    """A thin figure with its arms out, before a wall that ends beside it."""
    scene = np.full((400, 500, 3), (90, 160, 110), np.uint8)
    scene[:, 400:] = (150, 90, 60)
    figure = np.zeros((400, 500), np.uint8)
    cv2.line(figure, (120, 60), (120, 340), 255, 40)
    cv2.line(figure, (60, 120), (240, 90), 255, 22)
    cv2.line(figure, (120, 330), (220, 350), 255, 26)
    scene[figure > 0] = (60, 50, 190)
    scene[60:340, 110:130] = (220, 215, 225)
    draws = np.random.default_rng(0).normal(0, 1.5, scene.shape)
    return (scene + draws).clip(0, 255).astype(np.uint8), figure


def test_background_inside_a_box_that_goes_on_outside_is_left_out():
    scene, figure = figure_before_two_walls()
    rows, columns = np.flatnonzero(figure.any(1)), np.flatnonzero(figure.any(0))
    box = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
    cutout = remove_background(scene, boxes=[box])
    assert cutout.plausible
    assert overlap(cutout.alpha, figure) > 0.9


def test_a_mask_that_ends_where_the_picture_has_no_edge_is_closed_there_or_known_to_be_open():
    scene, figure = figure_before_two_walls()
    leaking = figure > 0
    leaking[150:300, 100:300] = True
    assert open_share(scene, figure > 0) < 0.02
    assert open_share(scene, leaking) > 0.12
    np.testing.assert_array_equal(without_leaks(scene, figure > 0), figure > 0)
    assert overlap(without_leaks(scene, leaking).astype(np.uint8) * 255, figure) > 0.95


def test_a_picture_without_any_edge_beside_the_mask_is_not_trusted():
    scene, _ = figure_before_two_walls()
    blurred = cv2.GaussianBlur(scene, (0, 0), 60)
    assert not remove_background(blurred, boxes=[(50, 40, 260, 370)]).plausible


def test_an_outline_along_a_limit_is_known_and_the_pictures_border_is_no_limit():
    allowed = np.zeros((300, 400), bool)
    allowed[:, 60:240] = True
    disc = cv2.circle(np.zeros((300, 400), np.uint8), (150, 150), 80, 1, -1) > 0
    wide = cv2.circle(np.zeros((300, 400), np.uint8), (150, 150), 110, 1, -1) > 0
    tall = np.zeros((300, 400), bool)
    tall[:, 120:180] = True
    assert share_along_limit(disc, allowed) == 0
    assert share_along_limit(wide & allowed, allowed) > 0.2
    assert share_along_limit(tall, allowed) == 0


def box_without(product: ProductPhoto, share: float) -> list[float]:
    """The box less a share of its height at the bottom; more for a negative one."""
    x1, y1, x2, y2 = product.box
    return [x1, y1, x2, y2 - share * (y2 - y1)]


@pytest.mark.parametrize("seed", SEEDS[:6])
def test_a_product_that_goes_on_beyond_its_box_is_not_trusted(seed: int):
    scene = photo(seed, Backdrop.CLUTTERED).image
    shade = np.linspace(0.35, 1, 200)[None, :, None].repeat(460, 0)
    scene[100:560, 220:420] = (shade * (40, 60, 220)).astype(np.uint8)
    box = (220, 100, 420, 360)
    assert remove_background(scene, boxes=[(220, 100, 420, 560)]).plausible
    assert not remove_background(scene, boxes=[box]).plausible
    scene[374:560, 220:420] = scene[374:560, 220:420, ::-1]  # an edge there does not make an end of it
    assert remove_background(scene, boxes=[box]).fault is MaskFault.CUT_OFF


def test_a_mask_that_leaves_a_side_of_its_box_empty_is_not_trusted():
    product = photo(7006, Backdrop.CLUTTERED)
    loose = remove_background(product.image, boxes=[box_without(product, -0.25)])
    assert loose.fault is MaskFault.INCOMPLETE
    assert remove_background(product.image, boxes=[product.box]).plausible


def test_hardly_any_right_mask_is_distrusted():
    right = []
    for seed in SEEDS:
        product = photo(seed, Backdrop.CLUTTERED)
        cutout = remove_background(product.image, boxes=[product.box])
        if overlap(cutout.alpha, product.alpha) > 0.9:
            right.append(cutout.plausible)
    assert len(right) >= 25
    assert np.mean(right) >= 0.9


@pytest.mark.parametrize(("widths", "fault"), [((80, 80, 112), None), ((68, 80, 96), MaskFault.UNSTABLE)])
def test_one_solution_may_be_an_outlier_but_not_two(
    monkeypatch: pytest.MonkeyPatch, widths: tuple[int, ...], fault: MaskFault | None
):
    """Solutions are rectangles of so many pixels' width in a picture of 400, which do not leave the box empty."""
    left = iter(widths * 2)

    def solve(image: np.ndarray, *_: object, **__: object) -> np.ndarray:
        height, width = image.shape[:2]
        solution = np.zeros((height, width), np.uint8)
        reach = next(left) / 2
        solution[round(height / 4) : round(3 * height / 4), round(width / 2 - reach) : round(width / 2 + reach)] = 255
        return solution

    monkeypatch.setattr(background, "_grabcut_in_boxes", solve)
    scene = photo(7006, Backdrop.CLUTTERED).image[:200, :200]
    scene = cv2.rectangle(scene.copy(), (60, 50), (139, 149), (20, 20, 230), -1)
    assert remove_background(scene, boxes=[(60, 50, 140, 150)]).fault is fault


def test_a_dark_scene_is_no_plain_backdrop_because_most_of_it_is_black():
    scene = np.full((400, 600, 3), 6, np.uint8)
    for x, y in ((90, 0), (430, 399), (0, 200), (599, 300)):
        cv2.circle(scene, (x, y), 75, (18, 60, 30), -1)
    cv2.circle(scene, (300, 200), 90, (230, 230, 230), -1)
    assert plain_backdrop_mask(scene) == (None, False)


@pytest.mark.parametrize("seed", [7000, 20024, 20029, 20051, 20054])
def test_a_dark_side_or_a_grey_cap_is_no_shadow(seed: int):
    product = photo(seed)
    assert overlap(remove_background(product.image).alpha, product.alpha) > 0.97


def bottle(
    backdrop: tuple[int, int, int], glass: tuple[int, int, int], *, left: int = 200, scene: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """A bottle with a white label and its print before a backdrop of one colour, and its mask; 640 by 640."""
    scene = np.full((640, 640, 3), backdrop, np.uint8) if scene is None else scene
    mask = np.zeros((640, 640), np.uint8)
    for x1, y1, x2, y2 in ((70, 60, 130, 180), (10, 170, 190, 560)):
        cv2.rectangle(scene, (left + x1, y1), (left + x2, y2), glass, -1, cv2.LINE_AA)
        cv2.rectangle(mask, (left + x1, y1), (left + x2, y2), 255, -1)
    cv2.rectangle(scene, (left + 70, 60), (left + 130, 85), (40, 40, 200), -1)
    cv2.rectangle(scene, (left + 10, 260), (left + 190, 450), (245, 249, 248), -1)
    cv2.putText(scene, "OLIVE OIL", (left + 18, 310), cv2.FONT_HERSHEY_SIMPLEX, 0.9, (20, 20, 20), 2, cv2.LINE_AA)
    cv2.putText(scene, "500 ml", (left + 20, 345), cv2.FONT_HERSHEY_SIMPLEX, 0.55, (40, 40, 40), 1, cv2.LINE_AA)
    noise = np.random.default_rng(left).normal(0, 1, scene.shape)
    return (scene + noise).clip(0, 255).round().astype(np.uint8), mask


@pytest.mark.parametrize("level", [246, 250, 252, 255])
@pytest.mark.parametrize("glass", [(60, 110, 30), (80, 80, 80), (222, 236, 240), (224, 222, 222)])
def test_a_label_of_the_backdrops_own_colour_stays_with_its_print(level: int, glass: tuple[int, int, int]):
    scene, mask = bottle((level, level, level), glass)
    cutout = remove_background(scene)
    assert cutout.plausible, cutout.fault
    assert overlap(cutout.alpha, mask) > 0.97
    label = np.s_[270:440, 215:385]
    assert cutout.alpha[label][cv2.cvtColor(scene[label], cv2.COLOR_BGR2GRAY) < 100].min() > 250


def test_labels_side_by_side_are_no_way_from_one_bottle_to_the_next():
    scene, mask = bottle((250, 250, 250), (60, 110, 30), left=60)
    scene, second = bottle((0, 0, 0), (40, 30, 110), left=270, scene=scene)
    assert overlap(remove_background(scene).alpha, mask | second) > 0.97


@pytest.mark.parametrize(("level", "grey"), [(240, 226), (235, 222), (230, 218)])
def test_a_grey_product_before_light_grey_is_no_shadow(level: int, grey: int):
    scene, mask = bottle((level, level, level), (grey + 2, grey, grey))
    assert overlap(remove_background(scene).alpha, mask) > 0.97


@pytest.mark.parametrize("backdrop", [(250, 250, 250), (180, 224, 248)])
def test_a_shadow_before_white_is_soft_and_one_before_colour_loses_it_with_its_light(backdrop: tuple[int, int, int]):
    light = np.ones((640, 640), np.float32)
    cv2.ellipse(light, (330, 560), (190, 26), 0, 0, 360, 0.55, -1)
    light = cv2.GaussianBlur(light, (0, 0), 14)[..., None]
    scene = (light * np.float32(backdrop)).round().astype(np.uint8)
    scene, mask = bottle((0, 0, 0), (60, 110, 30), scene=scene)
    assert overlap(remove_background(scene).alpha, mask) > 0.97


def test_thin_parts_that_hang_on_the_product_are_kept():
    scene = np.full((1000, 1000, 3), 248, np.uint8)
    for x in (300, 700):
        cv2.ellipse(scene, (x, 520), (150, 120), 0, 0, 360, (20, 20, 20), 10)
    cv2.line(scene, (450, 500), (550, 500), (20, 20, 20), 3)
    alpha = remove_background(scene).alpha
    assert alpha[500, 460:540].min() > 200


def test_the_table_along_a_whole_side_is_not_taken_for_product():
    scene, _ = bottle((226, 228, 224), (60, 110, 30))
    scene[540:] = (60, 90, 140)
    assert not remove_background(scene).plausible


def test_several_products_are_all_kept():
    scene = np.full((400, 900, 3), 240, np.uint8)
    reference = np.zeros((400, 900), np.uint8)
    for index, colour in enumerate(((200, 60, 40), (40, 160, 60), (50, 50, 210))):
        corner = (60 + 280 * index, 80)
        cv2.rectangle(scene, corner, (corner[0] + 180, 340), colour, -1)
        cv2.rectangle(reference, corner, (corner[0] + 180, 340), 255, -1)
    assert overlap(remove_background(scene).alpha, reference) > 0.98


def test_a_product_that_touches_the_border_is_not_cut_off_there():
    product = photo(7001)
    shift = 640 - product.box[3] + 40
    scene, reference = np.roll(product.image, shift, 0), np.roll(product.alpha, shift, 0)
    scene[:shift], reference[:shift] = scene[shift], 0
    cutout = remove_background(scene)
    assert overlap(cutout.alpha, reference) > 0.95
    assert (cutout.alpha[-1] > 127).sum() == pytest.approx((reference[-1] > 127).sum(), abs=12)


def test_a_white_product_before_white_is_found_or_not_trusted():
    product = photo(7003)
    grey = cv2.cvtColor(product.image, cv2.COLOR_BGR2GRAY)
    pale = ProductPhoto(
        np.dstack([np.clip(222 + 0.13 * grey, 0, 250)] * 3).astype(np.uint8),
        product.alpha,
        product.box,
        product.text_box,
    )
    cutout = remove_background(on_backdrop(pale, np.full((640, 640, 3), 250.0)))
    assert not cutout.plausible or overlap(cutout.alpha, product.alpha) > 0.9


def test_a_cast_shadow_is_background():
    product = photo(7004)
    shade = cv2.GaussianBlur(np.roll(product.alpha, (12, 50), (0, 1)).astype(np.float32) / 255, (0, 0), 28)
    cutout = remove_background(on_backdrop(product, 240 * (1 - 0.35 * shade[..., None])))
    assert overlap(cutout.alpha, product.alpha) > 0.95


def test_the_opening_of_a_handle_shows_the_backdrop():
    scene = np.full((480, 480, 3), (200, 175, 150), np.uint8)
    cv2.rectangle(scene, (100, 120), (280, 380), (60, 70, 190), -1)
    cv2.circle(scene, (280, 250), 90, (60, 70, 190), 24)
    cutout = remove_background(scene)
    assert cutout.alpha[250, 320] == 0
    assert cutout.alpha[250, 200] == 255


def test_the_dark_core_of_a_shadow_beside_the_foot_is_background():
    scene = np.linspace(238, 178, 600)[:, None, None].repeat(600, 1).repeat(3, 2)
    shadow = np.zeros((600, 600), np.float32)
    cv2.ellipse(shadow, (330, 470), (120, 16), 0, 0, 360, 0.55, -1)
    scene = scene * (1 - cv2.GaussianBlur(shadow, (0, 0), 5))[..., None]
    product = np.zeros((600, 600), np.uint8)
    cv2.rectangle(product, (230, 120), (370, 470), 255, -1)
    scene[product > 0] = (40, 40, 190)
    cutout = remove_background(scene.astype(np.uint8))
    assert cutout.plausible
    assert overlap(cutout.alpha, product) > 0.97
    assert cutout.alpha[455:480, 385:450].max() < 128


def test_the_inside_of_a_ring_before_light_grey_shows_the_backdrop():
    scene = np.full((400, 400, 3), 235, np.uint8)
    cv2.circle(scene, (200, 200), 120, (30, 70, 120), 18)
    assert remove_background(scene).alpha[200, 200] == 0


def with_soft_shadow(level: int, product: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """A product of one colour before grey that darkens downwards, its shadow beside it, as a JPEG gives it back."""
    rows = np.linspace(1.02, 0.98, len(product))[:, None, None]
    shade = cv2.GaussianBlur(np.roll(product, (14, 20), (0, 1)).astype(np.float32) / 255, (0, 0), 14)
    scene = level * rows * (1 - 0.3 * shade[..., None]) * np.ones(3)
    cover = cv2.GaussianBlur(product.astype(np.float32) / 255, (0, 0), 0.6)[..., None]
    noise = np.random.default_rng(level).normal(0, 1.2, scene.shape)
    scene = (1 - cover) * scene + cover * np.float32(colour) + noise
    return cv2.imdecode(cv2.imencode(".jpg", scene.clip(0, 255).astype(np.uint8))[1], cv2.IMREAD_COLOR)


@pytest.mark.parametrize("colour", [(60, 40, 160), (60, 60, 60), (170, 150, 140)])
@pytest.mark.parametrize("level", [130, 190, 225, 245])
def test_a_handle_in_whose_opening_the_shadow_falls_shows_the_backdrop(level: int, colour: tuple[int, int, int]):
    product = np.zeros((700, 700), np.uint8)
    cv2.rectangle(product, (200, 200), (430, 520), 255, -1)
    cv2.ellipse(product, (430, 350), (95, 105), 0, -90, 90, 255, 28)
    cutout = remove_background(with_soft_shadow(level, product, colour))
    assert cutout.plausible, cutout.fault
    assert overlap(cutout.alpha, product) > 0.96
    opening = cv2.erode(255 - product, np.ones((15, 15), np.uint8))[260:440, 431:500] > 0
    assert np.quantile(cutout.alpha[260:440, 431:500][opening], 0.99) < 10


@pytest.mark.parametrize("level", [130, 190, 225, 245])
def test_a_thin_product_is_not_taken_together_with_its_wide_shadow(level: int):
    product = np.zeros((700, 700), np.uint8)
    for x, lean in ((270, 20), (430, -20)):
        cv2.ellipse(product, (x, 480), (60, 80), lean, 0, 360, 255, 22)
    cv2.line(product, (300, 410), (420, 120), 255, 26)
    cv2.line(product, (400, 410), (280, 120), 255, 26)
    cutout = remove_background(with_soft_shadow(level, product, (60, 60, 60)))
    assert not cutout.plausible or overlap(cutout.alpha, product) > 0.85


@pytest.mark.parametrize("side", [160, 300, 640])
def test_the_colours_that_jpeg_spreads_around_a_product_are_no_part_of_it(side: int):
    overlaps = []
    for seed in range(7300, 7310):
        product = render_product(seed, width=side, height=side)
        jpeg = cv2.imencode(".jpg", product.image, [cv2.IMWRITE_JPEG_QUALITY, 85])[1]
        overlaps.append(overlap(remove_background(cv2.imdecode(jpeg, cv2.IMREAD_COLOR)).alpha, product.alpha))
    assert np.mean(overlaps) > {160: 0.92, 300: 0.955, 640: 0.985}[side]


@pytest.mark.parametrize("seed", [7027, 7033])
def test_an_unprinted_part_of_a_label_of_the_backdrops_own_colour_is_no_opening(seed: int):
    product = photo(seed)
    assert overlap(remove_background(product.image).alpha, product.alpha) > 0.99


def test_a_product_of_strong_colour_that_fills_the_frame_is_not_taken_for_the_backdrop():
    scene = np.full((400, 400, 3), (40, 40, 190), np.uint8)
    scene[170:230, 10:390] = (240, 250, 250)
    cv2.putText(scene, "OLIVE OIL", (40, 215), cv2.FONT_HERSHEY_SIMPLEX, 1.5, (0, 0, 0), 4)
    cutout = remove_background(scene)
    assert not cutout.plausible or cutout.alpha[100, 200] > 127


def test_edges_are_soft_and_the_inside_is_solid():
    product = photo(7005)
    alpha = remove_background(product.image).alpha
    soft = (alpha > 0) & (alpha < 255)
    assert 0 < soft.mean() < 0.05
    inner = cv2.erode(product.alpha, np.ones((31, 31), np.uint8)) == 255
    assert (alpha[inner] == 255).all()


@pytest.mark.parametrize("level", [0, 128, 255])
def test_an_empty_picture_has_no_product(level: int):
    cutout = remove_background(np.full((300, 400, 3), level, np.uint8))
    assert cutout.fault is MaskFault.NEARLY_EMPTY


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 5000), (7, 9), (300, 20000)])
def test_extreme_shapes_are_answered(height: int, width: int):
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)
    cutout = remove_background(noise)
    assert cutout.alpha.shape == (height, width)
    assert not cutout.plausible


def test_boxes_outside_the_picture_are_ignored():
    product = photo(7006)
    outside = remove_background(product.image, boxes=[(900, 900, 1000, 1000), (5, 5, 5, 5)])
    np.testing.assert_array_equal(outside.alpha, remove_background(product.image).alpha)


def test_a_box_that_no_pixel_is_in_has_no_product():
    picture = photo(7007, Backdrop.CLUTTERED).image
    wide = cv2.resize(picture, (3000, 2250))
    assert not remove_background(wide, boxes=[(0, 500, 5, 1300)]).plausible


def test_keep_takes_the_whole_picture():
    cutout = remove_background(photo(7007).image, BackgroundMethod.KEEP)
    assert cutout.plausible
    assert (cutout.alpha == 255).all()


def test_a_dark_picture_is_cut_as_well_as_a_bright_one():
    product = photo(7008)
    cutout = remove_background(degrade(product.image, Defect.DARK))
    assert overlap(cutout.alpha, product.alpha) > 0.93


def test_edge_colours_lose_the_old_background():
    disc = np.zeros((200, 200), np.uint8)
    cv2.circle(disc, (100, 100), 60, 255, -1)
    alpha = cv2.GaussianBlur(disc, (0, 0), 2)
    cover = (alpha / 255)[..., None]
    scene = (cover * (30, 40, 220) + (1 - cover) * (0, 255, 0)).astype(np.uint8)
    half = (alpha > 80) & (alpha < 180)
    colours = product_colours(scene, alpha)
    assert scene[half, 1].mean() > 100
    assert colours[half, 1].mean() < 60
    np.testing.assert_array_equal(colours[alpha == 255], scene[alpha == 255])


def test_rembg_is_asked_for_the_named_model_with_rgb_pixels(monkeypatch: pytest.MonkeyPatch):
    asked = {}

    def remove(image: np.ndarray, *, session: str, only_mask: bool) -> np.ndarray:
        asked.update(session=session, only_mask=only_mask, first=image[0, 0].tolist())
        return np.pad(np.full((20, 20), 255, np.uint8), 10)

    fake = types.SimpleNamespace(new_session=lambda name, **_: name, remove=remove)
    monkeypatch.setitem(sys.modules, "rembg", fake)
    cutout = remove_background(np.full((40, 40, 3), (1, 2, 3), np.uint8), BackgroundMethod.REMBG)
    assert asked == {"session": "u2netp", "only_mask": True, "first": [3, 2, 1]}
    assert cutout.plausible
    assert cutout.alpha[20, 20] == 255


def test_rembg_that_is_not_installed_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "rembg", None)
    with pytest.raises(MethodUnavailableError, match=r"imgpipe-dagster\[rembg\]"):
        remove_background(np.zeros((40, 40, 3), np.uint8), BackgroundMethod.REMBG)


def test_a_rembg_model_file_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "rembg", types.SimpleNamespace())
    with pytest.raises(MethodUnavailableError, match=r"missing\.onnx"):
        remove_background(np.zeros((40, 40, 3), np.uint8), BackgroundMethod.REMBG, rembg_model="missing.onnx")
