"""A recipe says how to quantize. It is data: it is written to and read from JSON, and stored in the manifest.

Rules apply in order, and a later rule overrides an earlier one.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, get_args

from edgemobile.errors import EdgemobileError
from edgemobile.quant.observers import OBSERVERS
from edgemobile.util.strict_json import versioned

__all__ = ["DEFAULT", "TRIALS", "Hswish", "Recipe", "Rule"]

Hswish = Literal["delegated", "fused", "relu"]
Precision = Literal["int8", "float"]
Granularity = Literal["per_channel", "per_tensor"]
SplitGates = Literal["none", "stem", "highest_cost", "all"]
_VERSION = 1
_MOST_REFIT = 1e6
_MOST_IMAGES = 4096
# The names of quant/trials.py.
TRIALS = ("gradient-images", "mse", "layer-images", "refit-pooled", "adaround", "together", "float-stem")


@dataclass(frozen=True)
class Rule:
    """Settings for the nodes whose name or module path matches `pattern` (shell wildcards); None changes nothing.

    "features.0.2" also matches features.0.2.x6, the node that holds 6 times the output of that module.

    `observer` chooses the range of the node's output, `weights` is the granularity of its weight scales, and
    `precision` "float" keeps the node in float.
    """

    pattern: str = "*"
    observer: str | None = None
    weights: Granularity | None = None
    precision: Precision | None = None

    def __post_init__(self) -> None:
        _check_text("pattern", self.pattern)
        _check("observer", self.observer, tuple(OBSERVERS))
        _check("weights", self.weights, get_args(Granularity))
        _check("precision", self.precision, get_args(Precision))


@dataclass(frozen=True)
class Settings:
    """The settings of one node after all rules."""

    observer: str = "moving_average"
    weights: Granularity = "per_channel"
    precision: Precision = "int8"


@dataclass(frozen=True)
class Recipe:
    """How a float graph becomes an int8 one.

    `hswish` is the integer form of hard-swish: "delegated" (ADD with fused RELU6, then MUL, the 1/6 folded into the
    next layer's scale) runs in one partition in XNNPACK and onnxruntime; "fused" keeps one HARD_SWISH for kernels that
    have it; "relu" computes another function, ReLU, for hardware that has neither. `split_gates` says which delegated
    hard-swishes may have their input equalized (quant/hardswish_gates.py): none, the stem's, the stem's and those that
    add the most noise ("highest_cost"), or all. `equalize` is how strongly channel ranges are made equal, from 0, not
    at all, to 1 (quant/equalize.py); `noise_optimal_scaling` then optimizes the factors for the least noise in the
    logits (quant/noise_optimal_scaling.py). `refit` is how strongly refitted weights are kept near the trained ones, 0
    for no refit (quant/refit.py); `refit_pooled`: whether layers that read one pixel per image are refitted too, for
    which few images give few rows. `clip_weights` lets weights that share one scale saturate if that improves the
    output (quant/clip.py); `adaround` learns which weights to round up (quant/adaround.py, takes minutes);
    `bias_correction` is quant/bias_correction.py. `output_observer` chooses the range of the model's outputs if no rule
    does: a range averaged over batches clips the most confident answers. The range of the outputs is multiplied by
    `output_headroom`: other images may have more confident answers, which would be clipped to the same integer. The
    ranges inside squeeze-and-excites are multiplied by `squeeze_headroom`: synthetic images match the statistics of
    batch norm, which do not show how far the mean of a single image deviates. `gradient_images` is the number of images
    whose gradients choose channel factors and gates, and `layer_images` the number of images for layer correction; 0
    means as many as take a few seconds at this resolution. `trials` are names of quant/trials.py: changes of this
    recipe that are kept if they help on held-out calibration images.
    """

    name: str = "default"
    rules: tuple[Rule, ...] = ()
    hswish: Hswish = "delegated"
    bias_correction: bool = True
    split_gates: SplitGates = "highest_cost"
    equalize: float = 1.0
    noise_optimal_scaling: bool = True
    refit: float = 3.0
    clip_weights: bool = True
    adaround: bool = False
    output_observer: str = "mse"
    output_headroom: float = 1.0
    squeeze_headroom: float = 1.0
    refit_pooled: bool = True
    gradient_images: int = 0
    layer_images: int = 0
    trials: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check_text("name", self.name)
        _check("hswish", self.hswish, get_args(Hswish))
        _check("split_gates", self.split_gates, get_args(SplitGates))
        _check("output_observer", self.output_observer, tuple(OBSERVERS))
        if not _is_from(0, 1, self.equalize):
            raise EdgemobileError(f"equalize {self.equalize!r} is not a number from 0 (off) to 1 (equal channels)")
        for name in ("noise_optimal_scaling", "bias_correction", "clip_weights", "adaround", "refit_pooled"):
            if type(getattr(self, name)) is not bool:
                raise EdgemobileError(f"{name} {getattr(self, name)!r} is neither true nor false")
        if not _is_from(0, _MOST_REFIT, self.refit):
            raise EdgemobileError(f"refit {self.refit!r} is not a number from 0 (off) to {_MOST_REFIT:g}")
        for name in ("output_headroom", "squeeze_headroom"):
            headroom = getattr(self, name)
            if not _is_from(1, 16, headroom):
                raise EdgemobileError(f"{name} {headroom!r} is not a number from 1 to 16")
        for name in ("gradient_images", "layer_images"):
            count = getattr(self, name)
            if type(count) is not int or not 0 <= count <= _MOST_IMAGES:
                raise EdgemobileError(f"{name} {count!r} is not a whole number from 0 (automatic) to {_MOST_IMAGES}")
        for trial in self.trials:
            _check_text("trial", trial)
            _check("trial", trial, TRIALS)

    def settings(self, *names: str, is_output: bool = False) -> Settings:
        """The settings of the node that has these `names`: its own name and the path of its module. `is_output`:
        whether it is one of the model's outputs."""
        settings = Settings(observer=self.output_observer) if is_output else Settings()
        for rule in self.rules:
            if _matches(names, rule.pattern):
                said = {key: value for key, value in asdict(rule).items() if key != "pattern" and value is not None}
                settings = replace(settings, **said)
        return settings

    def unmatched(self, names: Iterable[str]) -> list[str]:
        """The patterns that match none of the `names`, so that a typo in a recipe can be reported."""
        names = tuple(names)
        return [rule.pattern for rule in self.rules if not _matches(names, rule.pattern)]

    def to_json(self) -> dict[str, Any]:
        return {"version": _VERSION, **asdict(self)}

    @classmethod
    def from_json(cls, text: str | dict[str, Any]) -> Recipe:
        """Read what `to_json` wrote. Raises EdgemobileError for an unknown version, field or value."""
        data = versioned(text, _VERSION, "quantization recipe")
        try:
            rules = tuple(Rule(**rule) for rule in data.pop("rules", ()))
            trials = tuple(data.pop("trials", ()))
            return cls(rules=rules, trials=trials, **data)
        except (ValueError, TypeError) as error:
            known = ", ".join(field.name for field in fields(cls))
            raise EdgemobileError(f"not a quantization recipe: {error}. A recipe has: version, {known}") from error


def _matches(names: Iterable[str], pattern: str) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for name in names)


def _is_from(low: float, high: float, value: object) -> bool:
    """Whether `value` is a number from `low` to `high`; a bool or NaN is not."""
    return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high


def _check_text(what: str, value: object) -> None:
    if not isinstance(value, str):
        raise EdgemobileError(f"{what} {value!r} is not text")


def _check(what: str, value: str | None, allowed: tuple[str, ...]) -> None:
    if value is not None and value not in allowed:
        raise EdgemobileError(f"{what} {value!r} is not known. Allowed: {', '.join(allowed)}")


DEFAULT = Recipe()
