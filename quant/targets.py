"""The choices of `--target`: the form of hard-swish and how ONNX stores weights, for the hardware that runs the file.

Measured on v3-large, int8, 224 px, one thread, in instructions per inference on emulated cores. To measure again:

    edgemobile export v3-large --int8 --res 224 --hswish delegated|fused --target cpu|arm
    edgemobile bench FILE... --on emulated:cortex-a76

                                        Cortex-A72   Cortex-A76   partitions
    TFLite, delegated                       85.7 M       42.0 M            1
    TFLite, delegated, split_gates "none"   84.4 M       40.7 M            1
    TFLite, fused                           86.6 M       42.9 M           22
    ONNX, int8 weights                     101.4 M       61.8 M
    ONNX, weights as uint8                 136.1 M       79.2 M

To add a target, add a row to TARGETS.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from edgemobile.errors import Unsupported

if TYPE_CHECKING:
    from edgemobile.quant.recipe import Hswish, Recipe

__all__ = ["DEFAULT_TARGET", "TARGETS", "Target", "suited", "target_for"]


@dataclass(frozen=True)
class Target:
    """A kind of hardware, the form of hard-swish that suits it, and the reason.

    `onnx` are arguments of exporters.onnx.to_bytes. `any_hswish`: the hardware runs every form, so a recipe may choose.
    """

    name: str
    hswish: Hswish
    why: str
    onnx: Mapping[str, Any] = field(default_factory=lambda: {"weights": "uint8"})
    any_hswish: bool = False

    @property
    def needs_exact_sums(self) -> bool:
        """Whether its ONNX files need a CPU that does not saturate sums of int8 products."""
        return self.onnx["weights"] == "int8"


_WHOLE = (
    "XNNPACK and onnxruntime run it in one partition, where HARD_SWISH splits the file into 22, and with less work on "
    "x86, Cortex-A72 and Cortex-A76"
)

TARGETS = {
    row.name: row
    for row in (
        Target(
            "cpu", "delegated", f"{_WHOLE}; weights as uint8 are exact in onnxruntime on every CPU", any_hswish=True
        ),
        Target(
            "arm",
            "delegated",
            f"{_WHOLE}; Arm does not saturate products of int8, and onnxruntime needs a quarter fewer instructions",
            onnx={"weights": "int8"},
            any_hswish=True,
        ),
        Target(
            "x86-vnni",
            "delegated",
            f"{_WHOLE}; VNNI does not saturate products of int8, and onnxruntime takes a third less time",
            onnx={"weights": "int8", "channel_multiple": 4},
            any_hswish=True,
        ),
        Target(
            "microcontroller",
            "fused",
            "TFLite Micro and CMSIS-NN have an int8 HARD_SWISH kernel: one op and one tensor in RAM instead of two",
        ),
        Target("edgetpu", "fused", "the Edge TPU compiler maps HARD_SWISH better than an addition of constants"),
        Target(
            "no-hswish", "relu", "hardware without hard-swish; ReLU is another function, so fine-tune the net with it"
        ),
    )
}


# edgemobile is for boards, and most have Arm cores. The table above shows what this saves.
DEFAULT_TARGET = "arm"


def suited(recipe: Recipe, target: str) -> Recipe:
    """`recipe` with the form of hard-swish that suits `target`; unchanged if the target runs every form."""
    row = target_for(target)
    return recipe if row.any_hswish else replace(recipe, hswish=row.hswish)


def target_for(name: str) -> Target:
    """The target called `name`. Raises Unsupported, with the known names, if there is none."""
    if name not in TARGETS:
        raise Unsupported(f"target {name!r} is not known. Allowed: {', '.join(TARGETS)}")
    return TARGETS[name]
