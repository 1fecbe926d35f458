"""A temple's network as an ONNX graph, written layer by layer, and run. No Keras here."""

from collections.abc import Sequence
from itertools import islice
from typing import Any

import numpy as np

from imgpipe_dagster.models.temple_architecture import Architecture, ArchitectureError, Layer, LayerKind

INPUT, OUTPUT = "pictures", "probabilities"
_OPSET = 17
_IR_VERSION = 8  # what that operator set came with; older readers take it
_OPERATORS = {"relu": "Relu", "sigmoid": "Sigmoid", "softmax": "Softmax", "tanh": "Tanh"}


def export_onnx(architecture: Architecture, weights: Sequence[np.ndarray]) -> bytes:
    """Write a network as ONNX. Its results equal those of Keras but for the order of summation.

    The input ``pictures`` is float32 (n, height, width, 3) from 0 to 1, as Keras takes it; the output ``probabilities``
    is (n, labels).

    Args:
        architecture: The layers.
        weights: All arrays in the order of ``model.get_weights()``: kernel and bias of each layer that has them.

    Raises:
        ArchitectureError: The weights are not those of the layers.
    """
    import onnx
    from onnx import helper

    shapes = architecture.weight_shapes()
    if [array.shape for array in weights] != shapes:
        raise ArchitectureError(f"The weights have the shapes {[array.shape for array in weights]}, not {shapes}.")
    graph = _Graph(helper)
    arrays = iter(weights)
    height, width, channels = architecture.input_shape
    tensor = graph.add("Transpose", [INPUT], perm=[0, 3, 1, 2])  # ONNX has channels first
    spatial = True
    for layer in architecture.layers:
        own = list(islice(arrays, layer.weights))
        match layer.kind:
            case LayerKind.CONVOLUTION:
                own[0] = np.ascontiguousarray(own[0].transpose(3, 2, 0, 1))
                tensor = graph.add("Conv", [tensor, *map(graph.constant, own)], **_sliding(layer))
            case LayerKind.POOLING:
                tensor = graph.add("MaxPool", [tensor], **_sliding(layer))
            case LayerKind.FLATTEN:
                if spatial:  # Keras counts channels fastest
                    tensor = graph.add("Transpose", [tensor], perm=[0, 2, 3, 1])
                tensor = graph.add("Flatten", [tensor], axis=1)
                spatial = False
            case LayerKind.DENSE:
                tensor = graph.add("Gemm", [tensor, *map(graph.constant, own)])
            case LayerKind.DROPOUT | LayerKind.ACTIVATION:
                pass  # dropout is for training; an activation follows below
        if layer.activation != "linear":
            axis: dict[str, Any] = {"axis": 1} if layer.activation == "softmax" else {}
            tensor = graph.add(_OPERATORS[layer.activation], [tensor], **axis)
    graph.add("Identity", [tensor], output=OUTPUT)
    floats = onnx.TensorProto.FLOAT
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "temple",
            [helper.make_tensor_value_info(INPUT, floats, ["n", height, width, channels])],
            [helper.make_tensor_value_info(OUTPUT, floats, ["n", architecture.labels])],
            initializer=graph.constants,
        ),
        opset_imports=[helper.make_opsetid("", _OPSET)],
        producer_name="imgpipe",
    )
    model.ir_version = _IR_VERSION
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString(deterministic=True)


class OnnxNetwork:
    """An ONNX network that is ready to run. Safe to use from several threads."""

    def __init__(self, data: bytes, *, threads: int = 0) -> None:
        """Load a network from the bytes of its file, which must be trusted.

        Args:
            data: What :func:`export_onnx` wrote.
            threads: For one run; 0 takes one for each core.
        """
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        # Its threads would wait for the next batch by spinning, on the cores that decode that batch's pictures.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])

    def probabilities(self, pixels: np.ndarray) -> np.ndarray:
        """Probabilities of a batch: float32, (n, labels), for float32 pixels (n, height, width, 3) from 0 to 1."""
        (result,) = self._session.run([OUTPUT], {INPUT: pixels})
        return np.asarray(result)


class _Graph:
    """Nodes and constants under names that are given out here."""

    def __init__(self, helper: Any) -> None:  # noqa: ANN401 - the module onnx.helper
        self._helper = helper
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def add(self, operator: str, inputs: list[str], *, output: str | None = None, **attributes: Any) -> str:  # noqa: ANN401 - ONNX's attributes
        name = output or f"{operator.lower()}_{len(self.nodes)}"
        self.nodes.append(self._helper.make_node(operator, inputs, [name], **attributes))
        return name

    def constant(self, array: np.ndarray) -> str:
        from onnx import numpy_helper

        name = f"weights_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(array.astype(np.float32), name))
        return name


def _sliding(layer: Layer) -> dict[str, Any]:
    padding = "SAME_UPPER" if layer.padding == "same" else "VALID"
    return {"kernel_shape": list(layer.window), "strides": list(layer.strides), "auto_pad": padding}
