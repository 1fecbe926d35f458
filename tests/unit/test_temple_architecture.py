"""Descriptions of networks are read without being trusted: known layers only, in Keras 2's words and Keras 3's."""

import copy
import json

import pytest

from imgpipe_dagster.models.temple_architecture import ArchitectureError, Layer, LayerKind, parse_architecture
from imgpipe_dagster.models.temple_cnn import needed_memory_mb, standard_architecture


@pytest.fixture
def changed(legacy_architecture):
    def make(change):
        described = copy.deepcopy(legacy_architecture)
        change(described)
        return json.dumps(described)

    return make


def test_keras_2_is_understood(legacy_architecture):
    architecture = parse_architecture(json.dumps(legacy_architecture))
    assert architecture.input_shape == (54, 96, 3)
    assert architecture.layers[0] == Layer(
        LayerKind.CONVOLUTION, units=20, window=(5, 5), padding="same", activation="linear"
    )
    assert architecture.weight_shapes() == [(5, 5, 3, 20), (20,), (27 * 48 * 20, 2), (2,)]
    assert architecture.labels == 2


def test_keras_before_2_3_listed_its_layers_barely(legacy_architecture):
    described = {**legacy_architecture, "config": legacy_architecture["config"]["layers"]}
    assert parse_architecture(json.dumps(described)) == parse_architecture(json.dumps(legacy_architecture))


def layer(number, **values):
    return lambda d: d["config"]["layers"][number]["config"].update(values)


def insert(entry):
    return lambda d: d["config"]["layers"].insert(1, entry)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (insert({"class_name": "Lambda", "config": {"function": ["4wEAAAAAAAAA", None, None]}}), "'Lambda' is not"),
        (insert({"class_name": "TFOpLambda", "config": {}}), "'TFOpLambda' is not"),
        (insert({"class_name": "Sequential", "config": {"layers": []}}), "'Sequential' is not"),
        (insert({"class_name": "Dropout", "registered_name": "evil>Dropout", "config": {"rate": 0}}), "somebody's own"),
        (insert("Dropout"), "no layer"),
        (insert({"class_name": ["Dropout"], "config": {}}), "is not taken"),
        (layer(0, filters=10**9), "filters"),
        (layer(0, filters=True), "filters"),
        (layer(0, kernel_size=[60, 5], padding="valid"), "Nothing is left"),
        (layer(0, groups=2), "groups"),
        (layer(0, dilation_rate=[2, 2]), "dilation"),
        (layer(0, data_format="channels_first"), "channels first"),
        (layer(0, activation={"class_name": "Lambda"}), "activation"),
        (layer(0, activation="os.system"), "activation"),
        (layer(0, padding="causal"), "padding"),
        (layer(0, batch_input_shape=[None, 54, 96, 1]), "1 channels"),
        (layer(0, batch_input_shape=[None, 2304]), "must be pictures"),
        (layer(0, batch_input_shape=None), "how large its input"),
        (layer(3, rate=7), "rate"),
        (layer(5, units=1), "two categories"),
        (layer(5, activation="relu"), "softmax"),
        (lambda d: d["config"]["layers"].pop(4), "Flatten before"),
        (lambda d: d["config"]["layers"].insert(5, d["config"]["layers"][2]), "cannot follow"),
        (lambda d: d["config"]["layers"].extend([{"class_name": "Flatten", "config": {}}] * 100), "1 to 64"),
        (lambda d: d.update({"class_name": "Functional"}), "Functional"),
        (lambda d: d.update({"class_name": "Lambda"}), "no Keras model"),
        (lambda d: d.update({"config": "x"}), "must list"),
    ],
)
def test_anything_else_is_refused_by_name(changed, change, told):
    with pytest.raises(ArchitectureError, match=told):
        parse_architecture(changed(change))


def test_a_network_too_large_to_build_is_refused_before_it_is_built(changed):
    huge = changed(lambda d: (layer(0, batch_input_shape=[None, 4000, 4000, 3])(d), layer(5, units=60_000)(d)))
    with pytest.raises(ArchitectureError, match="numbers"):
        parse_architecture(huge)


@pytest.mark.parametrize("text", ["", "[]", "null", "{", '{"class_name": "Sequential"}', "[" * 100_000])
def test_what_is_no_description_is_refused(text):
    with pytest.raises(ArchitectureError):
        parse_architecture(text)


def test_the_standard_network_is_the_documented_one():
    architecture = standard_architecture((54, 96, 3), 2)
    kinds = [layer.kind.value for layer in architecture.layers]
    convolution = ["Conv2D", "MaxPooling2D", "Dropout"]
    assert kinds == [*convolution, *convolution, "Flatten", "Dense", "Dense", "Dense"]
    assert [layer.rate for layer in architecture.layers if layer.kind is LayerKind.DROPOUT] == [0.5, 0.5]
    assert architecture.layers[-1].activation == "softmax"


def test_memory_grows_with_pictures_and_pixels():
    small, large = standard_architecture((54, 96, 3), 2), standard_architecture((1080, 1920, 3), 2)
    assert needed_memory_mb(small, 400) == pytest.approx(22.6, abs=0.5)
    assert needed_memory_mb(large, 0) > 8_000
