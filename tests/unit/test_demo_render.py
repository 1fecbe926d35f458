"""The rendered scenes: deterministic, with boxes that are true."""

import numpy as np
import pytest

from imgpipe_dagster.demo.render import (
    BOTTLE,
    CAN,
    CLASS_NAMES,
    GAP,
    Scene,
    render_clutter,
    render_scene,
)
from imgpipe_dagster.demo.sprites import BOTTLE_SHAPES, View, draw, random_bottle, random_can, random_carton
from imgpipe_dagster.demo.stage import Stage, photograph


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [render_scene(seed, 320, 240) for seed in range(40)]


def test_the_same_seed_gives_the_same_picture_and_boxes():
    first, second = render_scene(7, 320, 240), render_scene(7, 320, 240)
    np.testing.assert_array_equal(first.image, second.image)
    assert first.boxes == second.boxes


def test_another_seed_gives_another_picture():
    assert (render_scene(7, 320, 240).image != render_scene(8, 320, 240).image).mean() > 0.5


@pytest.mark.parametrize(("width", "height"), [(64, 64), (200, 333), (480, 320)])
def test_a_scene_has_the_size_that_was_asked_for(width, height):
    image = render_scene(3, width, height).image
    assert image.shape == (height, width, 3)
    assert image.dtype == np.uint8


def test_a_scene_that_is_too_small_is_refused():
    with pytest.raises(ValueError, match="at least 64 pixels"):
        render_scene(1, 63, 200)


def test_clutter_is_a_busy_picture_without_boxes():
    first, again, other = render_clutter(4, 320, 240), render_clutter(4, 320, 240), render_clutter(5, 320, 240)
    assert first.boxes == ()
    assert first.image.shape == (240, 320, 3)
    assert first.image.std() > 15
    np.testing.assert_array_equal(first.image, again.image)
    assert (first.image != other.image).mean() > 0.5


def test_boxes_lie_inside_the_picture_and_have_an_area(scenes):
    for scene in [*scenes, *(render_scene(seed, 64, 64) for seed in range(40))]:
        height, width = scene.image.shape[:2]
        for box in scene.boxes:
            assert 0 <= box.x1 < box.x2 <= width
            assert 0 <= box.y1 < box.y2 <= height
            assert min(box.x2 - box.x1, box.y2 - box.y1) >= 4


def test_all_classes_occur_often(scenes):
    counts = np.bincount([box.class_id for scene in scenes for box in scene.boxes], minlength=len(CLASS_NAMES))
    assert counts.min() >= 20
    assert {box.class_name for scene in scenes for box in scene.boxes} == set(CLASS_NAMES)


def test_bottles_and_only_bottles_are_open_or_closed(scenes):
    states = {class_id: set() for class_id in (BOTTLE, CAN, GAP)}
    for scene in scenes:
        for box in scene.boxes:
            states[box.class_id].add(box.opened)
    assert states == {BOTTLE: {True, False}, CAN: {None}, GAP: {None}}


def test_pictures_are_neither_black_nor_washed_out(scenes):
    levels = [scene.image.mean() for scene in scenes]
    assert min(levels) > 20
    assert max(levels) < 235
    assert min(scene.image.std() for scene in scenes) > 10


@pytest.mark.parametrize("seed", range(6))
def test_a_box_fits_its_object_after_the_camera_tilted_it(seed):
    rng = np.random.default_rng(seed)
    stage = Stage(np.full((240, 320, 3), 255, np.float32), np.zeros((240, 320), np.int16))
    bottle = random_bottle(rng, opened=False)
    sprite = draw(bottle, 150, View())
    sprite.image[:] = 0
    sprite.alpha[:] = sprite.coverage
    stage.paint(sprite, 120, 50, bottle)
    scene = photograph(stage, rng)
    dark = scene.image.max(axis=2) < 64
    rows, columns = np.flatnonzero(dark.any(axis=1)), np.flatnonzero(dark.any(axis=0))
    (box,) = scene.boxes
    seen = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
    np.testing.assert_allclose((box.x1, box.y1, box.x2, box.y2), seen, atol=2.5)


def test_an_object_that_another_hides_has_no_box():
    stage = Stage(np.full((240, 320, 3), 255, np.float32), np.zeros((240, 320), np.int16))
    rng = np.random.default_rng(0)
    can, carton = random_can(rng), random_carton(rng)
    stage.paint(draw(can, 60, View()), 140, 90, can)
    stage.paint(draw(carton, 140, View()), 110, 60, carton)
    assert photograph(stage, rng).boxes == ()


@pytest.mark.parametrize("shape", BOTTLE_SHAPES)
def test_a_sprite_is_cropped_to_its_article(shape):
    rng = np.random.default_rng(1)
    bottle = next(bottle for _ in iter(int, 1) if (bottle := random_bottle(rng, opened=False)).shape == shape)
    sprite = draw(bottle, 120, View())
    solid = sprite.coverage > 0.5
    assert solid[0].any()
    assert solid[-1].any()
    assert solid[:, 0].any()
    assert solid[:, -1].any()
    assert abs(solid.shape[1] / solid.shape[0] - BOTTLE_SHAPES[shape].aspect) < 0.04
    assert sprite.image.shape == (*solid.shape, 3)
    assert (sprite.alpha <= sprite.coverage).all()


def test_an_opened_bottle_differs_from_a_closed_one_at_its_neck():
    rng = np.random.default_rng(3)
    closed = random_bottle(rng, opened=False)
    opened = type(closed)(**{**closed.__dict__, "opened": True})
    with_cap, without = draw(closed, 200, View()), draw(opened, 200, View())
    neck = slice(0, int(BOTTLE_SHAPES[closed.shape].cap_bottom * 200))
    width = min(with_cap.image.shape[1], without.image.shape[1])
    assert np.abs(with_cap.image[neck, :width] - without.image[neck, :width]).mean() > 15
    assert without.coverage[neck].sum() < with_cap.coverage[neck].sum()
