"""Whether a scene was seen before, whatever the light, and how sure an answer may be."""

import io
import pickle

import numpy as np
import pytest

from imgpipe_dagster.models.temple_calibration import calibrated, distance_limit, fit_temperature
from imgpipe_dagster.models.temple_scene import (
    SceneSubspace,
    fit_subspace,
    light_free,
    subspaces_from_bytes,
    subspaces_to_bytes,
)


def lit(photo, gain, tilt=0.0):
    slope = np.linspace(1 - tilt, 1 + tilt, photo.shape[1])[None, :, None]
    return (photo * gain * slope).clip(0, 255).astype(np.uint8)


def apart(one, other):
    first, second = light_free(np.stack([one, other]))
    return float(np.linalg.norm(first - second))


def test_light_is_taken_out(photo):
    other_scene = photo[:, ::-1]
    assert apart(lit(photo, 0.9), lit(photo, 0.5)) < apart(photo, other_scene) / 4
    assert apart(lit(photo, 0.8), lit(photo, 0.8, tilt=0.2)) < apart(photo, other_scene) / 4


def test_a_picture_without_contrast_is_not_blown_up_to_noise():
    grey = np.random.default_rng(0).normal(128, 1, (40, 60, 3)).clip(0, 255).astype(np.uint8)
    assert np.linalg.norm(light_free(grey[None])[0]) < 0.7


def test_what_lies_in_the_subspace_has_no_distance_and_what_does_not_has():
    random = np.random.default_rng(1)
    plane = random.normal(size=(2, 30)).astype(np.float32)
    subspace = fit_subspace(random.normal(size=(50, 2)).astype(np.float32) @ plane + 5)
    inside = random.normal(size=(4, 2)).astype(np.float32) @ plane + 5
    assert subspace.components.shape == (2, 30)
    assert subspace.distances(inside).max() < 1e-2
    assert subspace.distances(inside + random.normal(size=30).astype(np.float32)).min() > 1


def test_one_picture_or_equal_pictures_make_a_subspace_too():
    feature = np.ones((1, 8), np.float32)
    for features in (feature, np.repeat(feature, 5, 0)):
        subspace = fit_subspace(features)
        assert subspace.distances(feature)[0] == 0
        assert subspace.distances(feature + 1)[0] == pytest.approx(8**0.5)


def test_subspaces_survive_their_file_and_objects_in_it_are_refused():
    made = [SceneSubspace(np.arange(4, dtype=np.float32), np.eye(4, dtype=np.float32)[:n]) for n in (1, 2)]
    read = subspaces_from_bytes(subspaces_to_bytes(made), 2)
    assert [s.components.shape for s in read] == [(1, 4), (2, 4)]
    assert all((a.mean == b.mean).all() for a, b in zip(made, read, strict=True))
    file = io.BytesIO()
    np.savez(file, mean_0=np.array([{"a": 1}], object), components_0=np.zeros((0, 4)))
    for data in (file.getvalue(), pickle.dumps({"mean_0": 1}), b""):
        with pytest.raises((ValueError, EOFError)):
            subspaces_from_bytes(data, 1)


def test_an_overconfident_classifier_is_cooled_and_a_right_one_is_not_made_infinitely_sure():
    random = np.random.default_rng(2)
    truth = random.integers(0, 2, 200)
    said = np.where(random.random(200) < 0.8, truth, 1 - truth)  # right in 4 of 5 cases, and always 99% sure
    overconfident = np.where(np.arange(2) == said[:, None], 0.99, 0.01)
    temperature = fit_temperature(overconfident, truth)
    assert calibrated(overconfident, temperature).max(axis=1).mean() == pytest.approx(0.8, abs=0.03)
    right = np.where(np.arange(2) == truth[:10, None], 0.9, 0.1)
    assert calibrated(right, fit_temperature(right, truth[:10])).max() == pytest.approx(11 / 12, abs=0.01)


def test_without_held_out_pictures_nothing_is_calibrated():
    assert fit_temperature(np.zeros((0, 2)), np.zeros(0, int)) == 1
    assert distance_limit(np.array([0.2, 0.3])) is None


def test_a_temperature_changes_no_ranking():
    probabilities = np.random.default_rng(3).dirichlet([1, 1, 1], 50)
    for temperature in (0.1, 1, 7):
        scaled = calibrated(probabilities, temperature)
        assert (scaled.argsort(1) == probabilities.argsort(1)).all()
        assert scaled.sum(axis=1) == pytest.approx(1)
    assert calibrated(np.array([[1.0, 0.0]]), 1)[0].tolist() == pytest.approx([1, 0], abs=1e-9)


def test_the_limit_is_passed_by_few_of_the_held_out_pictures():
    distances = np.random.default_rng(4).normal(1, 0.1, 500)
    assert (distances > distance_limit(distances)).mean() <= 0.02
