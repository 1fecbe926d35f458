"""Models of the older system: Keras 2's files are taken over, hostile ones are not."""

import io
import json

import h5py
import numpy as np
import pytest

from imgpipe_dagster.models.temple_architecture import ArchitectureError, build_architecture, parse_architecture
from imgpipe_dagster.models.temple_classifier import TempleClassifier
from imgpipe_dagster.models.temple_input import to_pixels
from imgpipe_dagster.models.temple_legacy import LegacyModelError, take_over

pytestmark = pytest.mark.native
EXTRA_INFO = json.dumps({"class_labels": ["door_closed", "door_open"], "resized_image_shape": [96, 54]}).encode()


@pytest.fixture
def architecture(legacy_architecture):
    return json.dumps(legacy_architecture).encode()


@pytest.fixture
def weights(architecture):
    """Arrays of the legacy network, by layer, as Keras 2 orders them."""
    random = np.random.default_rng(0)
    shapes = parse_architecture(architecture).weight_shapes()
    kernel, bias, dense, dense_bias = [random.normal(0, 0.05, shape).astype(np.float32) for shape in shapes]
    return {"conv2d_1": [kernel, bias], "activation_1": [], "dense_1": [dense, dense_bias]}


def as_file(weights, write=lambda file: None, root=""):
    """What ``save_weights("model_weights.h5")`` wrote: names in attributes, a group a layer, an array a weight."""
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        top = file.require_group(root) if root else file
        top.attrs["layer_names"] = [name.encode() for name in weights]
        top.attrs["backend"], top.attrs["keras_version"] = b"tensorflow", b"2.3.1"
        for name, arrays in weights.items():
            group = top.create_group(name)
            names = [f"{name}/{kind}:0" for kind in ("kernel", "bias")[: len(arrays)]]
            group.attrs["weight_names"] = [n.encode() for n in names]
            for path, array in zip(names, arrays, strict=True):
                group.create_dataset(path, data=array)
        write(file)
    return buffer.getvalue()


@pytest.mark.parametrize("root", ["", "model_weights"], ids=["weights alone", "whole model"])
def test_a_model_of_keras_2_answers_as_it_did(architecture, weights, root):
    files = take_over(architecture, as_file(weights, root=root), EXTRA_INFO)
    classifier = TempleClassifier.from_files(files)
    assert classifier.info.labels == ("door_closed", "door_open")
    assert classifier.info.form.shape == (54, 96, 3)
    assert classifier.info.form.interpolation == "linear"
    pictures = np.random.default_rng(1).integers(0, 256, (5, 54, 96, 3), np.uint8)
    original = build_architecture(parse_architecture(architecture))
    original.set_weights([array for arrays in weights.values() for array in arrays])
    said = [list(answer.probabilities.values()) for answer in classifier.classify(pictures)]
    assert np.abs(np.array(said) - np.asarray(original(to_pixels(pictures)))).max() < 1e-4


def test_what_keras_itself_writes_in_the_legacy_format_is_read(architecture, tmp_path, weights):
    original = build_architecture(parse_architecture(architecture))
    original.set_weights([array for arrays in weights.values() for array in arrays])
    original.save(tmp_path / "model.h5")
    files = take_over(architecture, (tmp_path / "model.h5").read_bytes(), EXTRA_INFO)
    ours = take_over(architecture, as_file(weights), EXTRA_INFO)
    assert files["model.onnx"] == ours["model.onnx"]


def test_a_lambda_layer_is_refused(architecture, weights):
    described = json.loads(architecture)
    described["config"]["layers"].insert(1, {"class_name": "Lambda", "config": {"function": "x"}})
    with pytest.raises(ArchitectureError, match="Lambda"):
        take_over(json.dumps(described).encode(), as_file(weights), EXTRA_INFO)


def replace_kernel(make):
    def write(file):
        del file["dense_1/dense_1/kernel:0"]
        make(file)

    return write


def external_dataset(file):
    shape = (27 * 48 * 20, 2)
    file["dense_1/dense_1"].create_dataset("kernel:0", shape, np.float32, external=[("/etc/hostname", 0, 207360)])


@pytest.mark.parametrize(
    "make",
    [
        lambda file: file.__setitem__("dense_1/dense_1/kernel:0", h5py.ExternalLink("/etc/passwd", "x")),
        lambda file: file.__setitem__("dense_1/dense_1/kernel:0", h5py.SoftLink("/conv2d_1")),
        external_dataset,
    ],
    ids=["external link", "soft link", "external data"],
)
def test_a_link_that_leads_out_of_the_file_is_not_followed(architecture, weights, make):
    with pytest.raises(LegacyModelError, match=r"link|another file"):
        take_over(architecture, as_file(weights, replace_kernel(make)), EXTRA_INFO)


@pytest.mark.parametrize(
    ("data", "told"),
    [(b"", "no weights file"), (b"\x89HDF\r\n\x1a\n", "no weights file"), (as_file({}), "shapes"), (None, "shapes")],
    ids=["empty", "cut", "no layers", "one layer fewer"],
)
def test_weights_that_are_not_those_of_the_network_are_refused(architecture, weights, data, told):
    if data is None:
        data = as_file({"conv2d_1": weights["conv2d_1"]})
    with pytest.raises(LegacyModelError, match=told):
        take_over(architecture, data, EXTRA_INFO)


@pytest.mark.parametrize(
    ("info", "told"),
    [
        (b"", "not JSON"),
        (b"[]", "one list of category labels"),
        (b'{"shape": [96, 54]}', "one list of category labels"),
        (b'{"a": ["x", "y"], "b": ["z"]}', "holds 2"),
        (b'{"labels": ["x", "y", "z"]}', "names 3 categories"),
        (b'{"labels": ["x", "x"]}', "categories"),
        (b'{"labels": ["x", "y"], "shape": [100, 54]}', "another size"),
    ],
)
def test_labels_that_do_not_fit_are_refused(architecture, weights, info, told):
    with pytest.raises(LegacyModelError, match=told):
        take_over(architecture, as_file(weights), info)
