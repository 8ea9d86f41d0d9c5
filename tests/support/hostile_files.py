"""ONNX files that are valid and harm whoever runs them."""

from __future__ import annotations

__all__ = ["endless", "huge", "make_onnx"]


def make_onnx(*nodes: object, outputs: object, inputs: object = (), initializers: object = ()) -> bytes:
    import onnx
    from onnx import helper

    graph = helper.make_graph(list(nodes), "made", list(inputs), list(outputs), list(initializers))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def endless() -> bytes:
    """y = x, after a Loop whose condition is always true."""
    from onnx import TensorProto, helper

    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["again"]), helper.make_node("Identity", ["v"], ["w"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v", TensorProto.FLOAT, [1, 4]),
        ],
        [
            helper.make_tensor_value_info("again", TensorProto.BOOL, []),
            helper.make_tensor_value_info("w", TensorProto.FLOAT, [1, 4]),
        ],
    )
    true = helper.make_tensor("true", TensorProto.BOOL, [], [True])
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in "xy")
    return make_onnx(
        helper.make_node("Loop", ["", "true", "x"], ["y"], body=body), outputs=[y], inputs=[x], initializers=[true]
    )


def huge() -> bytes:
    """Makes 64 GiB of zeros, and gives their sum."""
    from onnx import TensorProto, helper

    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in "xy")
    sizes = helper.make_tensor("sizes", TensorProto.INT64, [2], [2**17, 2**17])
    nodes = [
        helper.make_node("ConstantOfShape", ["sizes"], ["zeros"]),
        helper.make_node("ReduceSum", ["zeros"], ["sum"], keepdims=0),
        helper.make_node("Add", ["x", "sum"], ["y"]),
    ]
    return make_onnx(*nodes, outputs=[y], inputs=[x], initializers=[sizes])
