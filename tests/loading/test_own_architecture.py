"""Checkpoints that contain their own architecture: read like others, and refused where they are not what they say."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from edgemobile.errors import EdgemobileError
from edgemobile.loading.checkpoint import ARCHITECTURE, arch_of, build, identify, load_weights
from edgemobile.loading.model import load_model
from edgemobile.models.arch import Arch, get_arch, scaled
from edgemobile.models.channel_groups import with_widths
from edgemobile.models.table import exact_arch, table_of

Write = Callable[..., Path]


@pytest.fixture
def arch() -> Arch:
    full = exact_arch(scaled(get_arch("v3-small"), width=0.5, input_px=32, classes=3))
    return with_widths(full, {"blocks.4.expand": 72, "blocks.4.squeeze": 16, "last": 120, "hidden": 200})


@pytest.fixture
def write(arch: Arch, tmp_path: Path) -> Write:
    """Writes the checkpoint of a net with random weights, with other metadata or tensors."""

    def written(metadata: dict[str, object] | None = None, state: dict[str, torch.Tensor] | None = None) -> Path:
        path = tmp_path / "net.safetensors"
        facts = {ARCHITECTURE: table_of(arch).to_json()} if metadata is None else metadata
        tensors = dict(load_weights("random", arch).state_dict)
        save_file(tensors | (state or {}), path, {key: json.dumps(value) for key, value in facts.items()})
        return path

    return written


def test_it_is_the_net_of_its_own_rows(write: Write, arch: Arch) -> None:
    path = write()
    assert identify(path).blocks == arch.blocks
    assert (arch_of(str(path)).classes, arch_of(str(path)).tail) == (3, arch.tail)
    for spec, weights in ((str(path), None), ("v3-small", str(path))):
        model = load_model(spec, weights, res=32)
        assert (model.name, model.classes) == ("v3-small", 3)
        assert model.facts[ARCHITECTURE] == table_of(arch).to_json()
    _, net = build(get_arch("v3-small"), load_weights(str(path), get_arch("v3-small")))
    assert net(torch.zeros(1, 3, 32, 32)).shape == (1, 3)


def test_what_does_not_fit_is_refused(write: Write, arch: Arch) -> None:
    path = write()
    with pytest.raises(EdgemobileError, match=r"holds an adapted v3-small, not v2"):
        load_weights(str(path), get_arch("v2"))
    with pytest.raises(EdgemobileError, match=r"is v3-small at width 1, but --width is 0\.5"):
        load_weights(str(path), get_arch("v3-small"), width=0.5)
    wider = table_of(with_widths(arch, {"last": 128}))
    with pytest.raises(EdgemobileError, match="does not fit the architecture in its own metadata"):
        load_model(str(write({ARCHITECTURE: wider.to_json()})))
    # Nothing of this size is made before the weights are compared with it.
    huge = with_widths(arch, {"blocks.4.expand": 4096, "last": 4096, "hidden": 4096})
    with pytest.raises(EdgemobileError, match="does not fit the architecture in its own metadata"):
        load_model(str(write({ARCHITECTURE: table_of(huge).to_json()})))
    damaged = {**table_of(arch).to_json(), "stem": 12}
    with pytest.raises(EdgemobileError, match=r"stem 12\. Allowed: multiples of 8"):
        load_model(str(write({ARCHITECTURE: damaged})))


def test_other_programs_also_say_architecture(write: Write) -> None:
    """timm's metadata has a name there, and weights without our rows are found by their shapes."""
    for value in ("mobilenetv3_small_050", {"name": "mobilenet"}):
        with pytest.raises(EdgemobileError, match="does not contain weights of a reference model"):
            identify(write({ARCHITECTURE: value}))
