"""Other libraries' checkpoints of the same models: tables that translate their keys to those of our nets.

A layout contains the library whose names a state_dict has, the other differences from our net, and the preprocessing
of the library's public checkpoints. It is recognized by the keys only; then every tensor of the file must have a key
of our net, and every key a tensor.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from edgemobile.errors import EdgemobileError, first_few
from edgemobile.models.arch import Arch
from edgemobile.models.layers import layers
from edgemobile.preprocess import IMAGENET, Preprocess, at_resolution

if TYPE_CHECKING:
    import torch

__all__ = ["LAYOUTS", "Layout", "check_complete", "key_pairs", "known_keys", "recognised", "translated"]

_IMAGENET_BICUBIC = Preprocess(input_px=224, resize="shorter", shorter_px=256, interpolation="bicubic")
# torchvision resizes a detector's images without antialiasing, to a square.
_DETECTION = Preprocess(input_px=320, antialias=False, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
_HALVES = Preprocess(input_px=224, resize="shorter", shorter_px=256, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
_HALVES_BICUBIC = replace(_HALVES, interpolation="bicubic")
_TF_PADDING = (
    "tf_padding is not in the weights: transformers' default, true, is assumed. The config.json of save_pretrained "
    "next to them would state it"
)


@dataclass(frozen=True)
class Layout:
    """One library's checkpoints of some of our models.

    `keys` is a row of models.layers.KEYS; `preprocess` is that of the public checkpoints. `bn_eps` and `padding` are
    the library's if they differ from ours. `caution` is a warning about a difference that the keys do not show.
    """

    source: str
    models: tuple[str, ...]
    keys: str
    preprocess: Preprocess
    bn_eps: float | None = None
    padding: Literal["both", "same"] | None = None
    caution: str = ""


LAYOUTS: tuple[Layout, ...] = (
    Layout("timm's mobilenetv1", ("v1",), "timm", _HALVES_BICUBIC),
    Layout("torchvision's mobilenet_v2", ("v2",), "torchvision-v2", IMAGENET),
    Layout("timm's mobilenetv2", ("v2",), "timm", _IMAGENET_BICUBIC),
    Layout(
        "transformers' MobileNetV1",
        ("v1",),
        "transformers-v1",
        _HALVES,
        bn_eps=1e-3,
        padding="same",
        caution=_TF_PADDING,
    ),
    Layout(
        "transformers' MobileNetV2",
        ("v2",),
        "transformers-v2",
        _HALVES,
        bn_eps=1e-3,
        padding="same",
        caution=_TF_PADDING,
    ),
    Layout("torchvision's mobilenet_v3", ("v3-small", "v3-large"), "torchvision-v3", IMAGENET),
    Layout(
        "timm's mobilenetv3",
        ("v3-small", "v3-large"),
        "timm-v3",
        _IMAGENET_BICUBIC,
        bn_eps=1e-5,
        caution="timm's tf_mobilenetv3 has the same keys and pads as TensorFlow does: its weights give wrong "
        "results here",
    ),
    Layout(
        "torchvision's lraspp_mobilenet_v3",
        ("v3-small-lraspp", "v3-large-lraspp"),
        "torchvision-lraspp",
        at_resolution(IMAGENET, 520),
    ),
    Layout(
        "torchvision's ssdlite320_mobilenet_v3_large",
        ("v3-large-ssdlite",),
        "torchvision-ssdlite",
        _DETECTION,
    ),
    Layout("edgemobile's v2-ssdlite", ("v2-ssdlite",), "v2-ssdlite", _DETECTION),
    Layout("timm's mobilenetv4", ("v4-conv-small",), "timm-v4", _IMAGENET_BICUBIC),
    Layout("efficientnet_lite_pytorch's", ("efficientnet-lite0",), "efficientnet-pytorch", _HALVES_BICUBIC),
    Layout(
        "timm's tf_efficientnet_lite",
        ("efficientnet-lite0",),
        "timm",
        _HALVES_BICUBIC,
        caution="timm's efficientnet_lite has the same keys and pads both ends equally: its weights give "
        "wrong results here",
    ),
)

_NORM_LEAVES = ("weight", "bias", "running_mean", "running_var")
_BATCH_COUNT = "num_batches_tracked"  # missing in older checkpoints


def recognised(keys: Collection[str], arch: Arch) -> Layout | None:
    """The layout of `arch` with the most of these state_dict keys; None if it has less than half of them."""
    shares = {layout: _share(keys, arch, layout) for layout in LAYOUTS if arch.name in layout.models}
    best = max(shares, key=shares.__getitem__, default=None)
    return best if best and shares[best] > 0.5 else None


def _share(keys: Collection[str], arch: Arch, layout: Layout) -> float:
    known = key_pairs(arch, layout)
    return sum(key in known for key in keys) / max(1, len(keys))


def known_keys(arch: Arch) -> set[str]:
    """Every state_dict key of `arch`, in our layout and all others."""
    rows = {arch.keys, *(layout.keys for layout in LAYOUTS if arch.name in layout.models)}
    return {key for row in rows for key in _pairs(arch, row)}


def key_pairs(arch: Arch, layout: Layout) -> dict[str, str]:
    """The layout's key of every tensor -> our net's, in our net's order."""
    return _pairs(arch, layout.keys)


def _pairs(arch: Arch, keys: str) -> dict[str, str]:
    pairs = {}
    for ours, theirs in zip(layers(arch), layers(arch, keys), strict=True):
        if ours.op != "mean":
            pairs[f"{theirs.name}.weight"] = f"{ours.name}.weight"
        if ours.bias:
            pairs[f"{theirs.name}.bias"] = f"{ours.name}.bias"
        if ours.norm:
            pairs |= {f"{theirs.norm}.{leaf}": f"{ours.norm}.{leaf}" for leaf in (*_NORM_LEAVES, _BATCH_COUNT)}
    return pairs


def translated(state: Mapping[str, torch.Tensor], arch: Arch, layout: Layout) -> dict[str, torch.Tensor]:
    """`state` with our net's keys; keys that the layout does not have are unchanged.

    timm's layer after v3's pool is a 1x1 convolution [out, in, 1, 1], with the values of a linear layer [out, in].
    """
    pairs = key_pairs(arch, layout)
    linear = {f"{layer.name}.weight" for layer in layers(arch) if layer.op == "linear"}
    ours = {pairs.get(key, key): value for key, value in state.items()}
    return {key: value.flatten(1) if key in linear and value.ndim == 4 else value for key, value in ours.items()}


def check_complete(keys: Collection[str], arch: Arch, layout: Layout, source: str) -> None:
    """Raise EdgemobileError, with the layout's names, unless `keys` are exactly those of the layout."""
    known = key_pairs(arch, layout)
    missing = [key for key in known if key not in keys and not key.endswith(_BATCH_COUNT)]
    left_over = [key for key in keys if key not in known]
    said = [
        f"{len(names)} {what}: {first_few(names)}"
        for what, names in (("missing", missing), ("left over", left_over))
        if names
    ]
    if said:
        raise EdgemobileError(f"{source} does not fit {arch.name} under {layout.source} keys: {'; '.join(said)}")
