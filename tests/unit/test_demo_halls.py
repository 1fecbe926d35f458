"""The rendered halls: a picture is a function of its seed, light and camera change, and doors can be told apart."""

import numpy as np
import pytest

from imgpipe_dagster.demo.halls import HALLS, Door, render_hall
from imgpipe_dagster.demo.temple_show import TODAY, hall_files
from imgpipe_dagster.imaging.decode import decode_bgr
from imgpipe_dagster.models.temple_scene import light_free


@pytest.mark.parametrize("name", HALLS)
def test_the_same_seed_gives_the_same_picture_and_another_one_another(name):
    one, again, other = (render_hall(HALLS[name], Door.OPEN, seed, 320, 180) for seed in (1, 1, 2))
    assert (one.shape, one.dtype) == ((180, 320, 3), np.uint8)
    assert (one == again).all()
    assert np.abs(one.astype(int) - other).mean() > 3


def test_light_changes_much_and_the_scene_little():
    pictures = {
        door: np.stack([render_hall(HALLS["lakeside"], door, seed, 192, 108) for seed in range(6)]) for door in Door
    }
    brightness = pictures[Door.CLOSED].mean(axis=(1, 2, 3))
    assert brightness.max() > 1.3 * brightness.min()
    centres = {door: light_free(seen).mean(axis=0) for door, seen in pictures.items()}
    within = np.linalg.norm(light_free(pictures[Door.CLOSED]) - centres[Door.CLOSED], axis=1).mean()
    assert np.linalg.norm(centres[Door.OPEN] - centres[Door.CLOSED]) > within / 2
    assert np.linalg.norm(centres[Door.NONE] - centres[Door.CLOSED]) > within / 2


def test_todays_pictures_are_of_every_hall_and_have_names_of_their_own():
    files = list(hall_files())
    assert len({file.name for file in files}) == len(files) == len(HALLS) * len(TODAY)
    assert {file.temple_id for file in files} == set(HALLS)
    assert decode_bgr(files[0].read()).shape == (540, 960, 3)
