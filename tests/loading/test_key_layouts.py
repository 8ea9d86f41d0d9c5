"""Other libraries' checkpoints come whole and under our names, or are refused in theirs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from edgemobile.errors import EdgemobileError
from edgemobile.loading.checkpoint import build, load_weights
from edgemobile.loading.key_layouts import LAYOUTS, Layout, key_pairs, recognised
from edgemobile.models.arch import ARCHS, Arch, get_arch, scaled
from edgemobile.models.layers import layers
from edgemobile.models.nets import build_net

OF_MODELS = [(layout, name) for layout in LAYOUTS for name in layout.models]
FOREIGN = [(layout, name) for layout, name in OF_MODELS if layout.keys != ARCHS[name].keys]


def _id(value: Any) -> str:
    return value if isinstance(value, str) else value.keys


@pytest.fixture
def save(tmp_path: Path) -> Callable[[dict[str, torch.Tensor]], Path]:
    def save(state: dict[str, torch.Tensor]) -> Path:
        torch.save(state, tmp_path / "w.pth")
        return tmp_path / "w.pth"

    return save


def as_saved(arch: Arch, layout: Layout) -> dict[str, torch.Tensor]:
    """Random weights of `arch` as the layout's library would save them."""
    torch.manual_seed(0)
    state = build_net(arch).state_dict()
    hidden_is_conv = layout.keys == "timm-v3"
    return {
        theirs: state[ours][..., None, None] if hidden_is_conv and theirs == "conv_head.weight" else state[ours]
        for theirs, ours in key_pairs(arch, layout).items()
    }


@pytest.mark.parametrize(("layout", "name"), OF_MODELS, ids=_id)
def test_every_tensor_has_its_place(layout: Layout, name: str) -> None:
    with torch.device("meta"):
        ours = list(build_net(ARCHS[name]).state_dict())
    pairs = key_pairs(ARCHS[name], layout)
    assert list(pairs.values()) == ours
    assert len(pairs) == len(ours)  # no two of theirs share a name


@pytest.mark.parametrize(("layout", "name"), FOREIGN, ids=_id)
def test_a_foreign_file_is_loaded_and_named(layout: Layout, name: str, save: Callable[..., Path]) -> None:
    arch = scaled(get_arch(name), width=0.5, classes=7)
    theirs = as_saved(arch, layout)
    checkpoint = load_weights(save(theirs), get_arch(name))
    assert (checkpoint.arch, checkpoint.width, checkpoint.classes) == (name, 0.5, 7)
    assert checkpoint.preprocess == layout.preprocess
    assert layout.source in checkpoint.notes[0]
    built, net = build(get_arch(name), checkpoint)
    assert built.bn_eps == (layout.bn_eps or arch.bn_eps)
    pairs = key_pairs(arch, layout)
    assert all(torch.equal(net.state_dict()[pairs[key]].flatten(), value.flatten()) for key, value in theirs.items())


def test_the_preprocessing_assumed_is_at_the_models_resolution(save: Callable[..., Path]) -> None:
    arch = scaled(get_arch("v1"), width=0.5, classes=7, input_px=96)
    layout = next(layout for layout in LAYOUTS if "v1" in layout.models)
    found = load_weights(save(as_saved(arch, layout)), arch).preprocess
    assert found is not None
    assert (found.input_px, found.shorter_px) == (96, 110)


@pytest.mark.parametrize(("layout", "name"), FOREIGN, ids=_id)
def test_what_is_missing_or_left_over_is_listed_in_their_names(
    layout: Layout, name: str, save: Callable[..., Path]
) -> None:
    theirs = as_saved(scaled(get_arch(name), width=0.25, classes=3), layout)
    stem = next(iter(theirs))
    del theirs[stem]
    path = save({**theirs, "extra.weight": torch.zeros(1)})
    with pytest.raises(EdgemobileError, match=rf"{layout.source} keys: 1 missing: {stem}; 1 left over: extra\.weight"):
        load_weights(path, get_arch(name))


def test_batch_counts_may_be_missing(save: Callable[..., Path]) -> None:
    layout, name = FOREIGN[0]
    theirs = as_saved(scaled(get_arch(name), width=0.25, classes=3), layout)
    path = save({key: value for key, value in theirs.items() if not key.endswith("num_batches_tracked")})
    build(get_arch(name), load_weights(path, get_arch(name)))


@pytest.mark.parametrize(("layout", "name"), FOREIGN, ids=_id)
def test_a_foreign_file_of_another_model_is_named(layout: Layout, name: str, save: Callable[..., Path]) -> None:
    other = "v1" if name != "v1" else "v2"
    path = save(as_saved(scaled(get_arch(name), width=0.25, classes=3), layout))
    with pytest.raises(EdgemobileError, match=rf"contains weights of {name} \(width 0\.25\), not of {other}"):
        load_weights(path, get_arch(other))


def test_what_keys_cannot_tell_is_said(save: Callable[..., Path]) -> None:
    layout = next(layout for layout in LAYOUTS if layout.keys == "timm-v3")
    path = save(as_saved(scaled(get_arch("v3-small"), width=0.25, classes=3), layout))
    assert any("tf_mobilenetv3" in note for note in load_weights(path, get_arch("v3-small")).notes)


def test_timm_s_v3_at_another_width_is_another_net(save: Callable[..., Path]) -> None:
    """Its layer behind the pool keeps its size there, which torchvision's does not."""
    layout = next(layout for layout in LAYOUTS if layout.keys == "timm-v3")
    theirs = as_saved(scaled(get_arch("v3-small"), width=0.5, classes=3), layout)
    inside = theirs["conv_head.weight"].shape[1]
    theirs |= {
        "conv_head.weight": torch.zeros(1024, inside, 1, 1),
        "conv_head.bias": torch.zeros(1024),
        "classifier.weight": torch.zeros(3, 1024),
    }
    checkpoint = load_weights(save(theirs), get_arch("v3-small"), width=0.5)
    with pytest.raises(EdgemobileError, match=r"3 of another shape: classifier\.0\.weight"):
        build(get_arch("v3-small"), checkpoint)


def test_keys_of_nobody_are_not_recognised() -> None:
    assert recognised(["a.weight", "b.weight", "conv_stem.weight"], get_arch("v2")) is None
    assert recognised([], get_arch("v2")) is None


def test_names_do_not_change_the_layers() -> None:
    ours = list(layers(get_arch("v3-large")))
    theirs = list(layers(get_arch("v3-large"), "timm-v3"))
    assert [(a.op, a.out_shape, a.kernel) for a in ours] == [(b.op, b.out_shape, b.kernel) for b in theirs]
