"""What to do where a known cause shows: in models that are not ready to be exported."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from edgemobile.errors import Unsupported

if TYPE_CHECKING:
    import torch

__all__ = ["GREY", "check_not_quantized", "faint", "training_branches"]

GREY = (
    "Its first layer takes one grey channel, and images here have three: give it the same weights for R, G and B, each "
    "a third of them (weight.repeat(1, 3, 1, 1) / 3), which answers the same for grey images"
)

# Logits of nets that were trained lie far above this.
_FAINT = 1e-6

# What the branches of a block are called that one convolution takes the place of: in RepVGG's and MobileOne's own code,
# and in timm's.
_BRANCHES = (".rbr_dense.", ".rbr_1x1.", ".rbr_conv.", ".rbr_scale.", ".conv_kxk.", ".conv_scale.")
# What such a block has to make the one convolution.
_FOLDS = ("switch_to_deploy", "reparameterize")


def faint(outputs: np.ndarray) -> str:
    """A note on a net f[N,classes] that says nothing yet; "" for others."""
    largest = float(np.abs(outputs).max(initial=0))
    if not outputs.size or not largest < _FAINT:
        return ""
    return (
        f"its outputs are about {largest:.0e}, as of a net that was only just initialised: load weights, or let its "
        "batch norm see images in train() mode first"
    )


def training_branches(net: torch.nn.Module) -> str:
    """A note on a net of RepVGG or MobileOne blocks that still has the branches it was trained with; "" for others."""
    keys = [key for key in net.state_dict() if any(branch in f".{key}" for branch in _BRANCHES)]
    call = next((name for module in net.modules() for name in _FOLDS if callable(getattr(module, name, None))), "")
    if not keys or not call:
        return ""
    return (
        f"it still has the branches it was trained with ({keys[0]}): call {call}() of its blocks first, and each "
        "becomes one convolution with the same result"
    )


def check_not_quantized(source: str, state: Mapping[str, object]) -> None:
    """Raises Unsupported for a net that torch has quantized: its state holds packed weights beside tensors."""
    import torch

    for key, value in state.items():
        if not isinstance(value, torch.Tensor) or value.is_quantized:
            found = value.dtype if isinstance(value, torch.Tensor) else type(value).__name__
            raise Unsupported(
                f"{source} is quantized by torch already ({key} is {found}). Supported: float nets, which "
                "edgemobile quantizes itself: give the net before convert()"
            )
