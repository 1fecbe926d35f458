"""The description of a temple's network as JSON, in Keras 2's words or Keras 3's: read without trusting it, and built.

Nothing of the text is handed to Keras to be made into objects: only layers of a short list are known, and of those only
numbers and a few words are taken. A Lambda layer, which holds a program, has no way in; nor has any other class.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from imgpipe_dagster.models.quiet_keras import import_keras

if TYPE_CHECKING:
    import keras

_MAX_LAYERS = 64
_MAX_NUMBER = 65_536  # of filters, units, pixels: more is no network of a temple
_MAX_PARAMETERS = 100_000_000


class ArchitectureError(ValueError):
    """The description is none of a network that is known here; the message says what is not."""


class LayerKind(StrEnum):
    """The layers that are known, by their names in Keras."""

    CONVOLUTION = "Conv2D"
    POOLING = "MaxPooling2D"
    DROPOUT = "Dropout"
    FLATTEN = "Flatten"
    DENSE = "Dense"
    ACTIVATION = "Activation"


ACTIVATIONS = frozenset({"linear", "relu", "sigmoid", "softmax", "tanh"})
_PADDINGS = frozenset({"valid", "same"})


@dataclass(frozen=True)
class Layer:
    """One layer. What a kind does not have keeps its default.

    Attributes:
        kind: What it does.
        units: Filters of a convolution, outputs of a dense layer.
        window: Height and width of a kernel or pool.
        strides: Its steps, down and to the right.
        padding: ``valid`` or ``same``.
        activation: The function that its results go through.
        bias: It adds a bias.
        rate: Of a dropout.
    """

    kind: LayerKind
    units: int = 0
    window: tuple[int, int] = (1, 1)
    strides: tuple[int, int] = (1, 1)
    padding: str = "valid"
    activation: str = "linear"
    bias: bool = True
    rate: float = 0.0

    @property
    def weights(self) -> int:
        """How many arrays of weights it has."""
        return 1 + self.bias if self.kind in (LayerKind.CONVOLUTION, LayerKind.DENSE) else 0


@dataclass(frozen=True)
class Architecture:
    """A network: layers one after another, with channels last.

    Attributes:
        input_shape: Height, width, channels.
        layers: In order, without the input.
    """

    input_shape: tuple[int, int, int]
    layers: tuple[Layer, ...]

    @property
    def labels(self) -> int:
        """How many outputs it has."""
        return next((layer.units for layer in reversed(self.layers) if layer.kind is LayerKind.DENSE), 0)

    @property
    def parameters(self) -> int:
        """How many numbers it learns."""
        return sum(math.prod(shape) for shape in self.weight_shapes())

    def weight_shapes(self) -> list[tuple[int, ...]]:
        """The shapes of its weights in the order of Keras: kernel and bias of each layer that has them.

        Raises:
            ArchitectureError: The layers do not fit one another.
        """
        shapes: list[tuple[int, ...]] = []
        size: tuple[int, int] | None = self.input_shape[:2]
        features = self.input_shape[2]
        for layer in self.layers:
            match layer.kind:
                case LayerKind.CONVOLUTION | LayerKind.POOLING:
                    if size is None:
                        raise ArchitectureError(f"A {layer.kind} layer cannot follow a Flatten.")
                    size = _slide(size, layer)
                case LayerKind.FLATTEN:
                    features *= math.prod(size or (1,))
                    size = None
                case LayerKind.DENSE if size is not None:
                    raise ArchitectureError("A Dense layer needs a Flatten before it.")
                case _:
                    pass
            if layer.weights:
                window = layer.window if layer.kind is LayerKind.CONVOLUTION else ()
                shapes.append((*window, features, layer.units))
                features = layer.units
                shapes += [(layer.units,)] * layer.bias
        return shapes


def parse_architecture(text: str | bytes) -> Architecture:
    """Read ``model_architecture.json``: a Sequential of known layers that ends in a softmax.

    Raises:
        ArchitectureError: It is something else; the message names the layer or the value.
    """
    try:
        described = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ArchitectureError(f"The architecture is not JSON: {error}") from error
    if not isinstance(described, Mapping) or described.get("class_name") not in {"Sequential", "Functional", "Model"}:
        raise ArchitectureError("The architecture is no Keras model.")
    if described["class_name"] != "Sequential":
        raise ArchitectureError(f"A {described['class_name']} model is not known here, a Sequential is.")
    config = described.get("config")
    entries = config.get("layers") if isinstance(config, Mapping) else config  # Keras before 2.3 wrote a bare list
    if not isinstance(entries, Sequence) or isinstance(entries, str) or not 1 <= len(entries) <= _MAX_LAYERS:
        raise ArchitectureError(f"The architecture must list 1 to {_MAX_LAYERS} layers.")
    shape: tuple[int, int, int] | None = None
    layers: list[Layer] = []
    for entry in entries:
        name, values = _entry(entry)
        shape = shape or _input_shape(values)
        if name != "InputLayer":
            layers.append(_layer(name, values))
    if shape is None:
        raise ArchitectureError("The architecture does not say how large its input is.")
    if not layers or layers[-1].activation != "softmax":
        raise ArchitectureError("The network must end in a softmax over its categories.")
    architecture = Architecture(shape, tuple(layers))
    if architecture.labels < 2:
        raise ArchitectureError("The network must have two categories or more.")
    if architecture.parameters > _MAX_PARAMETERS:
        raise ArchitectureError(f"The network has {architecture.parameters:,} numbers; {_MAX_PARAMETERS:,} are taken.")
    return architecture


def build_architecture(architecture: Architecture) -> "keras.Sequential":
    """The Keras model of a description, with fresh weights."""
    keras = import_keras()
    layers: list[Any] = [keras.Input(architecture.input_shape)]
    for layer in architecture.layers:
        match layer.kind:
            case LayerKind.CONVOLUTION:
                made = keras.layers.Conv2D(
                    layer.units,
                    layer.window,
                    strides=layer.strides,
                    padding=layer.padding,
                    activation=layer.activation,
                    use_bias=layer.bias,
                )
            case LayerKind.POOLING:
                made = keras.layers.MaxPooling2D(layer.window, strides=layer.strides, padding=layer.padding)
            case LayerKind.DROPOUT:
                made = keras.layers.Dropout(layer.rate)
            case LayerKind.FLATTEN:
                made = keras.layers.Flatten()
            case LayerKind.DENSE:
                made = keras.layers.Dense(layer.units, activation=layer.activation, use_bias=layer.bias)
            case LayerKind.ACTIVATION:
                made = keras.layers.Activation(layer.activation)
        layers.append(made)
    return keras.Sequential(layers)


def _slide(size: tuple[int, int], layer: Layer) -> tuple[int, int]:
    """The size after a window has slid over a picture."""
    height, width = (
        -(-side // stride) if layer.padding == "same" else (side - window) // stride + 1
        for side, window, stride in zip(size, layer.window, layer.strides, strict=True)
    )
    if min(height, width) < 1:
        raise ArchitectureError(f"Nothing is left of the picture after a {layer.kind} layer: the input is too small.")
    return height, width


def _entry(entry: object) -> tuple[str, Mapping[str, Any]]:
    if not isinstance(entry, Mapping) or not isinstance(entry.get("config"), Mapping):
        raise ArchitectureError("The architecture lists something that is no layer.")
    name = entry.get("class_name")
    if name != "InputLayer" and name not in list(LayerKind):
        known = ", ".join(LayerKind)
        raise ArchitectureError(f"The layer {str(name)[:40]!r} is not taken; those that are: {known}.")
    if entry.get("registered_name") not in (None, name):
        raise ArchitectureError(f"The layer {name} is a class of somebody's own, which is not taken.")
    return str(name), entry["config"]


def _input_shape(values: Mapping[str, Any]) -> tuple[int, int, int] | None:
    given = values.get("batch_shape", values.get("batch_input_shape"))
    if given is None:
        return None
    if not isinstance(given, Sequence) or len(given) != 4:
        raise ArchitectureError("The input must be pictures: height, width, channels.")
    height, width, channels = (_number(side, "side of the input") for side in given[1:])
    if channels != 3:
        raise ArchitectureError(f"The input has {channels} channels; pictures here have 3.")
    return height, width, channels


def _layer(name: str, values: Mapping[str, Any]) -> Layer:
    kind = LayerKind(name)
    if values.get("data_format", "channels_last") != "channels_last":
        raise ArchitectureError(f"A {name} layer with channels first is not taken.")
    match kind:
        case LayerKind.CONVOLUTION:
            if values.get("groups", 1) != 1 or _pair(values.get("dilation_rate", 1), "dilation_rate") != (1, 1):
                raise ArchitectureError("A convolution with groups or dilation is not taken.")
            return Layer(
                kind,
                units=_number(values.get("filters"), "filters"),
                window=_pair(values.get("kernel_size"), "kernel_size"),
                strides=_pair(values.get("strides", 1), "strides"),
                padding=_word(values.get("padding", "valid"), _PADDINGS, "padding"),
                activation=_word(values.get("activation", "linear"), ACTIVATIONS, "activation"),
                bias=bool(values.get("use_bias", True)),
            )
        case LayerKind.POOLING:
            window = _pair(values.get("pool_size"), "pool_size")
            strides = values.get("strides")
            return Layer(
                kind,
                window=window,
                strides=window if strides is None else _pair(strides, "strides"),
                padding=_word(values.get("padding", "valid"), _PADDINGS, "padding"),
            )
        case LayerKind.DROPOUT:
            rate = values.get("rate", 0)
            if not isinstance(rate, int | float) or not 0 <= rate < 1:
                raise ArchitectureError("A dropout's rate must be from 0 to below 1.")
            return Layer(kind, rate=float(rate))
        case LayerKind.FLATTEN:
            return Layer(kind)
        case LayerKind.DENSE:
            return Layer(
                kind,
                units=_number(values.get("units"), "units"),
                activation=_word(values.get("activation", "linear"), ACTIVATIONS, "activation"),
                bias=bool(values.get("use_bias", True)),
            )
        case LayerKind.ACTIVATION:
            return Layer(kind, activation=_word(values.get("activation"), ACTIVATIONS, "activation"))


def _number(value: object, what: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= _MAX_NUMBER:
        raise ArchitectureError(f"{what} must be a whole number from 1 to {_MAX_NUMBER}, not {str(value)[:40]}.")
    return value


def _pair(value: object, what: str) -> tuple[int, int]:
    if isinstance(value, Sequence) and not isinstance(value, str) and len(value) == 2:
        return _number(value[0], what), _number(value[1], what)
    return _number(value, what), _number(value, what)


def _word(value: object, known: frozenset[str], what: str) -> str:
    if not isinstance(value, str) or value not in known:
        raise ArchitectureError(f"{what} must be one of {', '.join(sorted(known))}, not {str(value)[:40]!r}.")
    return value
