"""Checks the texts of a saved torch.export program, because torch evaluates, imports or compiles most of them.

sympy evaluates sizes as Python. torch turns names of tensors into Python code and runs it, and looks up ops by name in
all of torch. The structure of inputs and outputs may name modules to import.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from edgemobile.loading.size_expression import LARGEST, LONGEST, check_expression, shown
from edgemobile.lower.ops import LOWERINGS
from edgemobile.lower.walk import ADVICE

__all__ = ["check_texts", "computing_ops"]

_DEPTH = 60
# Paths of modules and parameters, devices, versions: nothing in them can end a quoted string or call anything.
_PLAIN = re.compile(r"[A-Za-z0-9_ .:/@+<=>-]*")
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# Below these keys is an object of a custom class, or a nested graph.
_REFUSED = ("as_custom_obj", "as_graph", "as_operator", "custom_obj", "class_fqn")
# Their keys are names of tensors or symbols.
_NAMED = (
    "tensor_values",
    "sym_int_values",
    "sym_bool_values",
    "sym_float_values",
    "custom_obj_values",
    "range_constraints",
)

# Ops of torch that have no lowering and only compute: on constants they are folded, and PyTorch runs them as a
# reference. Excluded are ops that read or write files, that do not check the given sizes, or that are random.
_COMPUTING = """
    abs acos add addmm alias amax amin arange argmax argmin asin atan avg_pool2d bmm bitwise_and bitwise_not bitwise_or
    cat ceil celu channel_shuffle chunk clamp_max clamp_min clone conv1d conv2d conv_transpose2d convolution cos cosh
    cumsum detach detach_ div elu elu_ eq erf exp expand expand_as expm1 eye flatten flip floor floor_divide full
    full_like ge gelu glu group_norm gt hardshrink hardswish instance_norm layer_norm le leaky_relu leaky_relu_
    lift_fresh_copy linalg_vector_norm linspace log log1p log2 log_sigmoid log_softmax logical_and logical_not
    logical_or logsumexp lt matmul max max_pool2d maximum mean min minimum mish mish_ mm movedim mul ne neg
    new_full new_ones new_zeros norm ones ones_like pad permute pixel_shuffle pixel_unshuffle
    pow prelu prod reciprocal relu relu6 remainder repeat reshape roll round rsqrt rsub scalar_tensor
    scaled_dot_product_attention select selu selu_ sigmoid sign silu sin sinh softmax softplus split split_with_sizes
    sqrt square squeeze stack std std_mean sub sum t tan tanh tanh_ to transpose tril triu unbind unflatten unsqueeze
    upsample_bicubic2d upsample_bilinear2d upsample_nearest2d var var_mean view view_as where zeros zeros_like
    _adaptive_avg_pool2d _assert_scalar _assert_tensor_metadata _log_softmax _softmax _to_copy
    sym_constrain_range_for_size sym_size
"""
# Arithmetic of sizes.
_OF_SIZES = """
    _operator.add _operator.and_ _operator.eq _operator.floordiv _operator.ge _operator.gt _operator.le _operator.lt
    _operator.mod _operator.mul _operator.ne _operator.neg _operator.or_ _operator.pos _operator.pow _operator.sub
    _operator.truediv math.trunc torch.sym_float torch.sym_int torch.sym_ite torch.sym_max torch.sym_min torch.sym_not
"""
# pytree imports unknown types by name.
_CONTAINERS = (None, "builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict")


def computing_ops() -> tuple[str, ...]:
    """The ops of torch that a saved program may have without a lowering."""
    return tuple(_COMPUTING.split())


def check_texts(value: Any) -> None:
    """Raises ValueError, with the text found, if a JSON member of a program contains a text that torch might run."""
    _check(value, "", 0)


def _check(value: Any, field: str, depth: int) -> None:
    """`field` is the key of `value`, also if it is an item of a list."""
    if depth > _DEPTH:
        raise ValueError(f"it is nested more than {_DEPTH} deep")
    if isinstance(value, dict):
        _check_table(value, field, depth)
    elif isinstance(value, list):
        for item in value:
            _check(item, field, depth + 1)
    elif isinstance(value, str):
        _TEXTS.get(field, _check_plain)(value)
    elif isinstance(value, int) and abs(value) > LARGEST:
        raise ValueError(f"{field} is {str(value)[:40]}...; numbers have at most 64 bits")


def _check_table(table: Mapping[str, Any], field: str, depth: int) -> None:
    if "target" in table:
        _check_op(table)
    for key, value in table.items():
        if key in _REFUSED:
            raise ValueError(f"it contains {key}, an object that is not a tensor")
        (_check_identifier if field in _NAMED else _check_plain)(key)
        _check(value, key, depth + 1)


def _check_op(node: Mapping[str, Any]) -> None:
    target = str(node["target"])
    if not _only_computes(target):
        op = target.removeprefix("torch.ops.aten.").partition(".")[0]
        raise ValueError(
            f"its op {shown(target)}{_place(node)} is not known to only compute; "
            + ADVICE.get(op, "a net with custom ops can be given as package.module:factory")
        )


def _only_computes(target: str) -> bool:
    if not target.startswith("torch.ops."):
        return target in _OF_SIZES.split()
    name = target.removeprefix("torch.ops.")
    namespace, *op = name.split(".")
    if len(op) != 2 or namespace != "aten" or op[1].endswith("out"):
        return False
    return name in LOWERINGS or op[0] in _COMPUTING.split()


def _place(node: Mapping[str, Any]) -> str:
    """ ", at 'features.0',", of the last module of "key,path,type;key,path,type"."""
    metadata = node.get("metadata")
    stack = metadata.get("nn_module_stack") if isinstance(metadata, dict) else None
    path = stack.split(";")[-1].split(",")[1:2] if isinstance(stack, str) else []
    return f", at {shown(path[0])}," if path and path[0] else ""


def _check_plain(text: str) -> None:
    # A name that starts with two underscores is special in Python.
    if len(text) > LONGEST or not _PLAIN.fullmatch(text) or any(part.startswith("__") for part in text.split(".")):
        raise ValueError(f"{shown(text)} is not a plain name")


def _check_identifier(text: str) -> None:
    if text and not (_IDENTIFIER.fullmatch(text) and len(text) <= LONGEST):
        raise ValueError(f"{shown(text)} is not the name of a tensor")


def _check_argument(text: str) -> None:
    """A text argument of an op ("constant", "same"): it is only written as a quoted string."""
    if len(text) > LONGEST or not text.isprintable():
        raise ValueError(f"{shown(text)} is not an argument of an op")


def _check_structure(text: str) -> None:
    """The structure of inputs or outputs, as pytree writes it: [1, {"type", "context", "children_spec"}]."""
    try:
        protocol, node = json.loads(text)
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{shown(text)} is not a structure of inputs or outputs") from error
    if protocol != 1:
        raise ValueError(f"a structure of inputs has protocol {shown(protocol)}; supported: 1")
    _check_container(node, 0)


def _check_container(node: Any, depth: int) -> None:
    if depth > _DEPTH or not isinstance(node, dict) or not isinstance(children := node.get("children_spec"), list):
        raise ValueError(f"{shown(node)} is not a structure of inputs or outputs")
    if node.get("type") not in _CONTAINERS:
        raise ValueError(f"its inputs or outputs are in a {shown(node['type'])}, not a tuple, list or dict")
    keys = json.loads(node["context"]) if isinstance(node.get("context"), str) else node.get("context")
    if not (keys is None or (isinstance(keys, list) and all(isinstance(key, str) for key in keys))):
        raise ValueError(f"the names of its inputs or outputs are {shown(keys)}")
    for key in keys or ():
        _check_plain(key)
    for child in children:
        _check_container(child, depth + 1)


# What each field may contain; any other field must be plain.
_TEXTS: Mapping[str, Callable[[str], None]] = {
    "name": _check_identifier,
    "as_name": _check_identifier,
    "forward_arg_names": _check_identifier,
    "as_string": _check_argument,
    "in_spec": _check_structure,
    "out_spec": _check_structure,
    "expr_str": check_expression,
    "nn_module_stack": _check_argument,
}
