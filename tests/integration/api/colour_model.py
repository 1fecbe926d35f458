"""A classifier that can be reckoned with: red pictures are opened, green ones closed, blue ones background."""

from pathlib import Path

NAMES = {0: "background", 1: "closed", 2: "opened"}


def write_colour_model(path: Path) -> Path:
    """Write it as Ultralytics would export it: ONNX with notes, 224 by 224 pixels, the mean colour decides."""
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weights = np.eye(3, dtype=np.float32)[::-1] * 20  # RGB to background, closed, opened
    nodes = [
        helper.make_node("GlobalAveragePool", ["images"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["colour"]),
        helper.make_node("MatMul", ["colour", "weights"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["output0"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "colours",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, 224, 224])],
        [helper.make_tensor_value_info("output0", TensorProto.FLOAT, [1, 3])],
        [numpy_helper.from_array(np.ascontiguousarray(weights), "weights")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    notes = {"task": "classify", "names": str(NAMES), "stride": "1", "imgsz": "[224, 224]", "args": "{}"}
    helper.set_model_props(model, notes)
    onnx.save(model, path)
    return path
