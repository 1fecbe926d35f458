import base64
import itertools

import cv2
import numpy as np
import pytest

from imgpipe_dagster.imaging.draw import (
    annotated_tile,
    class_colour,
    class_legend,
    contact_sheet,
    draw_boxes,
    thumbnail,
    to_data_uri,
)

NAMES = {0: "bottle", 1: "can"}
CAPTIONS = ["7: 3 objects", "日本語 😀 ñ", "", "two\nlines\tand\0nul", "\udcff lone surrogate", "long " * 100]


def decode(jpeg: bytes) -> np.ndarray:
    image = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    return image


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("background", [0, 128, 255])
def test_a_box_is_drawn_at_its_place_in_the_colour_of_its_class(background: int):
    image = np.full((200, 300, 3), background, np.uint8)
    drawn = draw_boxes(image, np.array([[100.0, 60.0, 200.0, 150.0]]), [1], NAMES)
    for x, y in ((100, 100), (200, 100), (150, 150)):
        assert tuple(drawn[y, x]) == class_colour(1)
    assert (drawn[65:145, 105:195] == background).all(), "the inside stays"
    assert (drawn[160:] == background).all(), "and so does the outside"


def test_a_line_has_a_dark_rim_on_a_bright_background():
    white = np.full((200, 300, 3), 255, np.uint8)
    column = draw_boxes(white, [(100, 60, 200, 150)], [0], NAMES)[100, 95:106]
    assert (0, 0, 0) in {tuple(pixel) for pixel in column.tolist()}


def test_the_image_itself_is_left_alone():
    image = noise(100, 100)
    before = image.copy()
    draw_boxes(image, [(10, 10, 50, 50)], [0], NAMES)
    np.testing.assert_array_equal(image, before)


def test_no_boxes_draw_nothing():
    image = noise(100, 100)
    np.testing.assert_array_equal(draw_boxes(image, np.empty((0, 4)), [], NAMES), image)
    np.testing.assert_array_equal(draw_boxes(image, [], [], NAMES), image)


def test_lines_grow_with_the_image():
    def painted(scale: int) -> float:
        image = np.zeros((100 * scale, 150 * scale, 3), np.uint8)
        drawn = draw_boxes(image, np.array([[20, 40, 120, 90]]) * scale, [0], {0: ""})
        return np.count_nonzero(drawn.any(axis=2)) / (image.size / 3)

    assert painted(20) == pytest.approx(painted(10), rel=0.15)


@pytest.mark.parametrize("name", CAPTIONS)
def test_names_in_any_script_are_drawn_and_none_fails(name: str):
    image = np.full((120, 160, 3), 200, np.uint8)
    assert draw_boxes(image, [(10, 30, 100, 90)], [0], {0: name}).shape == image.shape


def test_a_name_of_two_lines_is_drawn_on_one():
    image = np.full((120, 160, 3), 200, np.uint8)
    two_lines, one_line = (draw_boxes(image, [(20, 40, 100, 90)], [0], {0: name}) for name in ("a\nb", "a b"))
    np.testing.assert_array_equal(two_lines, one_line)


def test_different_names_and_confidences_look_different():
    image = np.full((120, 160, 3), 200, np.uint8)
    box = [(20, 40, 100, 90)]
    plain = draw_boxes(image, box, [0], {0: "Flasche"})
    assert (plain != draw_boxes(image, box, [0], {0: "Fläsche"})).any()
    assert (plain != draw_boxes(image, box, [0], {0: "Flasche"}, [0.5])).any()
    assert (draw_boxes(image, box, [7], {}) == draw_boxes(image, box, [7], {7: "7"})).all()


@pytest.mark.parametrize(
    "box", [(-50, 30, 60, 90), (100, 30, 400, 90), (20, -30, 90, 40), (0, 0, 0, 0), (20, 300, 90, 400)]
)
def test_boxes_beyond_the_edge_are_cut(box: tuple[int, ...]):
    image = np.full((120, 160, 3), 255, np.uint8)
    assert draw_boxes(image, [box], [0], NAMES).shape == image.shape


@pytest.mark.parametrize("box", [(-400, 30, 60, 90), (158, 30, 400, 90), (20, -300, 90, 40)])
def test_a_box_that_starts_outside_keeps_its_name_inside(box: tuple[int, ...]):
    image = np.full((120, 160, 3), 255, np.uint8)
    one, other = (draw_boxes(image, [box], [0], {0: name}) for name in ("bottle", "caster"))
    assert (one != other).any()


def test_colours_are_stable_and_neighbours_differ():
    assert class_colour(0) == class_colour(0)
    colours = [np.array(class_colour(number)) for number in range(20)]
    assert all(np.abs(one - other).sum() > 150 for one, other in itertools.pairwise(colours))


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [(960, 1280, (240, 320)), (1280, 960, (240, 180)), (100, 50, (100, 50)), (1, 5000, (1, 320)), (5000, 1, (240, 1))],
)
def test_a_thumbnail_fits_keeps_its_proportions_and_never_grows(height: int, width: int, expected: tuple[int, int]):
    image = noise(height, width)
    small = thumbnail(image, 320, 240)
    assert small.shape == (*expected, 3)
    assert not np.shares_memory(small, image)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7, 12, 20])
def test_a_sheet_keeps_its_limit_even_of_noise(count: int):
    sheet = contact_sheet([(noise(240, 320, seed), f"{seed}: 3 objects") for seed in range(count)])
    assert 8_000 < len(sheet) <= 20_000
    assert decode(sheet).shape[0] > 40


def test_a_sheet_without_a_limit_shows_each_tile_in_full_size():
    tiles = [(np.full((240, 320, 3), shade, np.uint8), "") for shade in (50, 100, 150, 200)]
    image = decode(contact_sheet(tiles, max_bytes=None))
    assert image.shape[1] >= 2 * 320
    height, width = image.shape[:2]
    found = [image[height * y // 4, width * x // 4].mean() for y in (1, 3) for x in (1, 3)]
    assert found == pytest.approx([50, 100, 150, 200], abs=3)


def test_columns_can_be_chosen():
    tiles = [(noise(24, 32), "x")] * 6
    wide, tall = (decode(contact_sheet(tiles, columns=columns, max_bytes=None)) for columns in (6, 1))
    assert wide.shape[1] > 6 * 320
    assert tall.shape[1] < 2 * 320
    assert tall.shape[0] > 6 * 240


@pytest.mark.parametrize("caption", CAPTIONS)
def test_captions_in_any_script_never_fail_and_stay_in_their_tile(caption: str):
    blank = np.full((240, 320, 3), 255, np.uint8)
    with_caption = decode(contact_sheet([(blank, caption), (blank, "")], max_bytes=None)).astype(int)
    without = decode(contact_sheet([(blank, ""), (blank, "")], max_bytes=None)).astype(int)
    changed = np.abs(with_caption - without).max(axis=2) > 60
    assert changed.any() == bool(caption.strip())
    assert not changed[:, 345:].any()


def test_a_tile_has_lines_in_the_colours_of_its_classes_and_its_counts_in_the_caption():
    image = np.full((480, 640, 3), 128, np.uint8)
    boxes = [[40, 40, 200, 400], [240, 40, 400, 400], [440, 40, 600, 400]]
    tile, caption = annotated_tile(image, boxes, [0, 2, 0], label="#7", width=320, height=240)
    assert tile.shape == (240, 320, 3)
    assert caption == [("#7 ", None), (" 2 ", class_colour(0)), (" 1 ", class_colour(2))]
    drawn = {tuple(pixel) for pixel in tile.reshape(-1, 3).tolist()}
    assert drawn == {(128, 128, 128), (0, 0, 0), class_colour(0), class_colour(2)}, "lines only, no names"
    empty, caption = annotated_tile(image, [], [], label="#8", width=320, height=240)
    assert (empty == 128).all()
    assert caption == [("#8 ", None)]


def test_a_sheet_tells_the_classes_by_their_colours_above_its_tiles():
    tile = np.full((240, 320, 3), 255, np.uint8), [("#1 ", None), (" 12 ", class_colour(1))]
    legend = class_legend({1: "can", 0: "bottle"})
    assert legend == [(" bottle ", class_colour(0)), (" can ", class_colour(1))]
    plain, told = (decode(contact_sheet([tile], legend=text, max_bytes=None)).astype(int) for text in ("", legend))
    top = told.shape[0] - plain.shape[0]
    assert top > 20
    for class_id in (0, 1):
        assert (np.abs(told[:top] - class_colour(class_id)).max(axis=2) < 30).sum() > 200
    assert (np.abs(told[-40:] - class_colour(1)).max(axis=2) < 30).sum() > 200


def test_a_sheet_needs_tiles_and_room_for_them():
    with pytest.raises(ValueError, match="at least one tile"):
        contact_sheet([])
    with pytest.raises(ValueError, match="do not fit into 500 bytes"):
        contact_sheet([(noise(240, 320), "x")] * 20, max_bytes=500)


def test_a_data_uri_holds_the_very_file():
    sheet = contact_sheet([(noise(24, 32), "x")])
    scheme, _, payload = to_data_uri(sheet).partition(",")
    assert scheme == "data:image/jpeg;base64"
    assert base64.b64decode(payload) == sheet
    assert not set(to_data_uri(sheet)) & set(" \n()[]"), "nothing that Markdown would end an address at"
