"""Training a temple's network on small pictures: what it learns, what comes out, and how it can end."""

import json
import resource

import numpy as np
import pytest

from imgpipe_dagster.imaging.formats import DecodeError
from imgpipe_dagster.models.temple_classifier import NO_CATEGORY, ModelFile, ModelFileError, ModelInfo, TempleClassifier
from imgpipe_dagster.models.temple_cnn import (
    TrainingHooks,
    TrainingOptions,
    TrainingStoppedError,
    class_weights,
    split_held_out,
)
from imgpipe_dagster.models.temple_input import InputFormat, LabelledPictures, to_pixels
from imgpipe_dagster.models.temple_training import (
    Stage,
    TrainingError,
    curve_as_lists,
    load_keras,
    train_temple,
    weights_to_bytes,
)

pytestmark = pytest.mark.native
FORM = InputFormat(32, 40)


def pictures(categories):
    random = np.random.default_rng(5)
    images = random.integers(0, 256, (len(categories), *FORM.shape), np.uint8)
    return LabelledPictures(tuple(range(len(categories))), tuple(categories), images)


def train(categories, *, hooks=None, on_stage=lambda _stage: None, **options):
    chosen = TrainingOptions(**{"epochs": 2, "batch_size": 4} | options)
    return train_temple(pictures(categories), pictures([]), FORM, options=chosen, hooks=hooks, on_stage=on_stage)


def test_it_learns_and_knows_what_it_does_not_know(trained_temple):
    report = trained_temple.report
    assert report.accuracy == 1
    assert report.false_alarm_rate <= 0.05
    assert report.unknown_flagged_rate >= 0.8, "the wall without a window was never shown"


def test_all_files_come_out_under_their_names(trained_temple):
    assert set(trained_temple.files) == set(ModelFile)
    info = json.loads(trained_temple.files["extra_info.json"])
    assert (info["class_labels"], info["resized_image_shape"]) == (["left", "right"], [32, 40, 3])
    assert json.loads(trained_temple.files["test_report.json"])["accuracy"] == 1
    assert json.loads(trained_temple.files["calibration.json"])["held_out_pictures"] == 10


def test_keras_and_onnx_say_the_same_and_keras_can_be_loaded_again(trained_temple):
    noise = np.random.default_rng(1).integers(0, 256, (64, *trained_temple.classifier.info.form.shape), np.uint8)
    keras_says = np.asarray(load_keras(trained_temple.files)(to_pixels(noise)))
    onnx_says = trained_temple.classifier.network.probabilities(to_pixels(noise))
    assert np.abs(keras_says - onnx_says).max() < 1e-4


def test_a_full_temporary_folder_is_told_in_one_line(trained_temple, tmp_path, monkeypatch):
    model = load_keras(trained_temple.files)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, before[1]))
    try:
        with pytest.raises(OSError, match="File too large") as told:
            weights_to_bytes(model)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (told.value.filename, str(told.value).count("\n")) == (str(tmp_path), 0)


def test_the_curve_tells_of_every_pass(trained_temple):
    curve = curve_as_lists(trained_temple.curve)
    assert len(curve["loss"]) == len(curve["val_loss"]) <= 40
    assert curve["val_loss"][trained_temple.best_epoch - 1] < curve["val_loss"][0]
    assert trained_temple.stopped_because in {"no more progress", "all epochs done"}


def test_the_same_pictures_and_seed_give_the_same_predictions():
    categories = ["a", "b"] * 8
    first, second = train(categories), train(categories)
    seen = pictures(categories).pictures
    assert first.fingerprint == second.fingerprint
    assert first.classifier.classify(seen) == second.classifier.classify(seen)


def test_two_pictures_are_enough_to_train_and_nothing_is_calibrated_then():
    stages = []
    trained = train(["a", "b"], on_stage=stages.append)
    assert stages == [Stage.ARCHITECTURE, Stage.TRAINED, Stage.TESTED]
    answers = trained.classifier.classify(pictures(["a", "b"]).pictures)
    assert [answer.scene_distance for answer in answers] == [None, None]
    assert trained.curve[0].val_loss is None
    assert trained.report.accuracy is None


@pytest.mark.parametrize(("categories", "told"), [([], "there is none"), (["door"] * 5, "only 'door'")])
def test_one_category_is_not_enough(categories, told):
    with pytest.raises(TrainingError, match=told):
        train(categories)


def test_what_would_take_too_much_memory_is_refused_beforehand():
    with pytest.raises(TrainingError, match="scale factor"):
        train(["a", "b"], max_memory_mb=1)


def test_somebody_can_stop_it():
    epochs = []
    hooks = TrainingHooks(on_epoch=epochs.append, should_stop=lambda: len(epochs) >= 2)
    with pytest.raises(TrainingStoppedError):
        train(["a", "b"] * 4, epochs=50, hooks=hooks)
    assert len(epochs) == 2


def test_the_time_limit_ends_it_with_what_there_is():
    trained = train(["a", "b"] * 8, epochs=100, time_limit_s=0.001)
    assert trained.stopped_because == "time limit"
    assert len(trained.curve) == 1
    assert set(trained.files) == set(ModelFile)


def test_a_fifth_of_each_category_is_held_out_and_a_single_picture_never():
    truth = np.array([0] * 10 + [1] * 5 + [2])
    fitted, held_out = split_held_out(truth, 0.2, seed=1)
    assert np.bincount(truth[held_out], minlength=3).tolist() == [2, 1, 0]
    assert sorted([*fitted, *held_out]) == list(range(16))
    assert (split_held_out(truth, 0.2, seed=1)[1] == held_out).all()


def test_categories_count_the_same_however_many_pictures_they_have():
    weights = class_weights(np.array([0] * 9 + [1]), 2)
    assert weights[0] * 9 == pytest.approx(weights[1] * 1)


def test_files_are_classified_as_they_come_and_a_broken_one_is_told(trained_temple, encode, draw_temple):
    names = [*["left", "right"] * 40, "none"]
    files = {number: encode(draw_temple(name, 5000 + number), "PNG") for number, name in enumerate(names)}
    files[99] = files[0][:200]
    found = dict(trained_temple.classifier.classify_files(files.items()))
    assert isinstance(found.pop(99), DecodeError)
    assert [found[number].image_class for number in range(80)] == names[:80]
    assert found[80].anomaly
    assert found[0].probabilities.keys() == {"left", "right"}
    assert sum(found[0].probabilities.values()) == pytest.approx(1, abs=1e-5)


def test_no_category_reaches_the_least_confidence(trained_temple):
    info = ModelInfo(trained_temple.classifier.info.labels, trained_temple.classifier.info.form, min_confidence=1.1)
    strict = TempleClassifier.from_files({**trained_temple.files, "extra_info.json": info.to_json()})
    (answer,) = strict.classify(np.full((1, *FORM.shape), 128, np.uint8))
    assert (answer.image_class, answer.anomaly) == (NO_CATEGORY, True)
    assert 0 < answer.class_confidence <= 1, "the highest probability is still told"


@pytest.mark.parametrize("name", ["extra_info.json", "calibration.json"])
@pytest.mark.parametrize("data", [b"", b"[]", b'{"class_labels": 3}'])
def test_files_that_make_no_sense_are_refused(trained_temple, name, data):
    with pytest.raises(ModelFileError, match=name):
        TempleClassifier.from_files({**trained_temple.files, name: data})
