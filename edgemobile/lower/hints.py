"""Advice for models that are not ready to be exported, if the cause can be recognised."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from edgemobile.errors import Unsupported

if TYPE_CHECKING:
    import torch

__all__ = ["GREY", "check_not_quantized", "faint", "parts_without_lowering", "training_branches"]

GREY = (
    "Its first layer takes one grey channel, but images have three here: repeat its weight for R, G and B and divide "
    "by 3 (weight.repeat(1, 3, 1, 1) / 3), which gives the same outputs for grey images"
)

# Logits of trained nets are much larger.
_FAINT = 1e-6

# Names of the training branches of a block that can be merged into one convolution, in the code of RepVGG, MobileOne
# and timm.
_BRANCHES = (".rbr_dense.", ".rbr_1x1.", ".rbr_conv.", ".rbr_scale.", ".conv_kxk.", ".conv_scale.")
# Methods of such a block that merge its branches.
_FOLDS = ("switch_to_deploy", "reparameterize")


def faint(outputs: np.ndarray) -> str:
    """A note if the outputs f[N,classes] are so small that the net is probably untrained; otherwise ""."""
    largest = float(np.abs(outputs).max(initial=0))
    if not outputs.size or not largest < _FAINT:
        return ""
    return (
        f"its outputs are about {largest:.0e}, as if the net was only just initialised: load weights, or first run "
        "images through it in train() mode for its batch norm"
    )


def training_branches(net: torch.nn.Module) -> str:
    """A note on a net of RepVGG or MobileOne blocks that still has its training branches; "" for other nets."""
    keys = [key for key in net.state_dict() if any(branch in f".{key}" for branch in _BRANCHES)]
    call = next((name for module in net.modules() for name in _FOLDS if callable(getattr(module, name, None))), "")
    if not keys or not call:
        return ""
    return (
        f"it still has the branches it was trained with ({keys[0]}): first call {call}() of its blocks, which turns "
        "each into one convolution with the same result"
    )


# What the nets of transformers have -> the aten ops of it.
_WITHOUT_LOWERING = {
    "attention": ("scaled_dot_product_attention", "matmul", "bmm", "baddbmm"),
    "layer norm": ("layer_norm",),
    "group norm": ("group_norm",),
    "local response norm": ("avg_pool3d",),
}


def parts_without_lowering(targets: Iterable[str]) -> str:
    """What to do about a net that has attention or such norms, by the `targets` of its aten calls; "" for others.

    The first op that is refused is then often a reshape before them.
    """
    names = {target.partition(".")[2].partition(".")[0] for target in targets if target.startswith("aten.")}
    found = [part for part, ops in _WITHOUT_LOWERING.items() if names.intersection(ops)]
    if not found:
        return ""
    return (
        f"The net has {' and '.join(found)}, which edgemobile does not lower: use a net of convolutions and batch "
        "norm, or --backend torch, which writes ONNX"
    )


def check_not_quantized(source: str, state: Mapping[str, object]) -> None:
    """Raises Unsupported for a net that torch has quantized: its state has quantized tensors or packed weights."""
    import torch

    for key, value in state.items():
        if not isinstance(value, torch.Tensor) or value.is_quantized:
            found = value.dtype if isinstance(value, torch.Tensor) else type(value).__name__
            raise Unsupported(
                f"{source} is already quantized by torch ({key} is {found}). Supported: float nets, which edgemobile "
                "quantizes itself: use the net before convert()"
            )
