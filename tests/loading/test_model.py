"""A model of one's own as what the reference computes: its output, its batch, its resolution, its weights."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgemobile.errors import EdgemobileError, Unsupported
from edgemobile.loading.checkpoint import load_weights
from edgemobile.loading.model import load_model
from edgemobile.metrics.outputs import split
from edgemobile.models.arch import get_arch
from edgemobile.preprocess import IMAGENET, at_resolution
from edgemobile.quant.synthesize import synthesize

SOURCE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, wrap=lambda y: y, flat=lambda y: y.flatten(1)):
        super().__init__()
        torch.manual_seed(0)
        self.wrap, self.flat = wrap, flat
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.pool, self.head = nn.AdaptiveAvgPool2d(1), nn.Linear(4, 5)

    def forward(self, x):
        return self.wrap(self.head(self.flat(self.pool(torch.relu(self.norm(self.conv(x)))))))

def plain(): return Net()
def a_dict(): return Net(lambda y: {"logits": y})
def a_tuple(): return Net(lambda y: (y,))
def with_none(): return Net(lambda y: [None, y])
def nothing(): return Net(lambda y: None)
def joined(): return Net(lambda y: y.sum(0))
def two(): return Net(lambda y: (y, y + 1))
def one_image(): return Net(flat=lambda y: y.view(1, 4))
def half(): return Net().half()
def drawn(): return torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
def diverged():
    net = Net()
    net.norm.running_var[2] = float("nan")
    return net
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with their_nets.py in it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "their_nets.py").write_text(SOURCE)
    monkeypatch.delitem(sys.modules, "their_nets", raising=False)
    return tmp_path


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(40, 16, 16, 3)).astype(np.float32)


@pytest.mark.parametrize("name", ["a_dict", "a_tuple", "with_none", "one_image"])
def test_the_reference_gives_logits_whatever_surrounds_them(name: str, images: np.ndarray) -> None:
    model = load_model(f"their_nets:{name}", res=16)
    assert model.classes == 5
    np.testing.assert_allclose(
        model.rows(images), load_model("their_nets:plain", res=16).rows(images), rtol=1e-4, atol=1e-5
    )


def test_a_saved_program_gives_them_too(here: Path, images: np.ndarray) -> None:
    model = load_model("their_nets:a_dict", res=16)
    torch.export.save(model.program, here / "net.pt2")
    saved = load_model("net.pt2")
    np.testing.assert_allclose(saved.rows(images), model.rows(images), rtol=1e-4, atol=1e-5)
    with pytest.raises(
        EdgemobileError, match=r"no batch-norm modules \(a saved program has none; load it as package\.module:factory"
    ):
        synthesize(saved.net, saved.preprocess, images=2)


def test_images_are_synthesized_from_it() -> None:
    model = load_model("their_nets:a_dict", res=16)
    assert synthesize(model.net, model.preprocess, images=2, steps=1).shape == (2, 16, 16, 3)


def test_two_tensors_are_no_classifier(images: np.ndarray) -> None:
    model = load_model("their_nets:two", res=16)
    assert not model.is_classifier
    assert model.classes is None
    assert [(output.name, output.shape) for output in model.outputs] == [("output_0", (5,)), ("output_1", (5,))]
    found = split(model.rows(images), model.outputs)
    np.testing.assert_allclose(found["output_1"], found["output_0"] + 1, rtol=1e-5)
    with pytest.raises(Unsupported, match=r"two has the outputs output_0 \[N, 5\], output_1 \[N, 5\]\. Supported: "):
        model.classified()


@pytest.mark.parametrize(
    ("name", "reason"),
    [("nothing", "returns no tensor"), ("joined", r"returns output of shape \[5\] for a batch of 1")],
)
def test_outputs_that_are_not_rows_are_refused(name: str, reason: str) -> None:
    with pytest.raises(Unsupported, match=reason):
        load_model(f"their_nets:{name}", res=16)


def test_a_net_that_runs_on_no_batch_says_why(images: np.ndarray) -> None:
    model = load_model("their_nets:plain", res=16)
    model.net.head = torch.nn.Linear(7, 5)
    with pytest.raises(Unsupported, match="plain cannot be run on a batch of 1: mat1") as caught:
        model.rows(images)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("spec", ["their_nets:plain", "v3-small"])
def test_a_resolution_of_nothing_is_refused(spec: str) -> None:
    with pytest.raises(EdgemobileError, match="res must be at least 1 pixel, found 0"):
        load_model(spec, res=0)


def test_weights_that_diverged_are_refused(here: Path) -> None:
    with pytest.raises(
        EdgemobileError, match=r"their_nets:diverged: norm\.running_var contains values that are not fin"
    ):
        load_model("their_nets:diverged", res=16)
    program = load_model("their_nets:plain", res=16).program
    program.state_dict["norm.running_var"][2] = float("nan")
    torch.export.save(program, here / "net.pt2")
    with pytest.raises(EdgemobileError, match=r"net\.pt2: norm\.running_var contains values that are not finite"):
        load_model("net.pt2")


def test_random_weights_are_a_fact_of_the_model(here: Path) -> None:
    """Seen where batch norm never saw an image, told where it cannot be seen; a file's name says nothing."""
    assert load_model("their_nets:plain", res=16).random
    assert load_model("v3-small", "random", width=0.35, classes=3, res=32).random
    assert not load_model("v3-small").random
    assert not load_model("their_nets:drawn", res=16).random
    assert load_model("their_nets:drawn", "random", res=16).random
    net = load_model("their_nets:plain", res=16).net
    with torch.no_grad():
        net.train()(torch.randn(4, 3, 16, 16))
    torch.save(net.state_dict(), here / "random.pt")
    assert not load_model("their_nets:plain", "random.pt", res=16).random
    saved = load_model("their_nets:plain", "random.pt", res=16)
    for program, random in ((saved.program, False), (load_model("their_nets:plain", res=16).program, True)):
        torch.export.save(program, here / "net.pt2")
        assert load_model("net.pt2").random is random


@pytest.mark.parametrize(
    ("options", "assumed"),
    [
        ({}, True),
        ({"preprocess": "inception"}, True),
        ({"preprocess": '{"resize": "exact"}'}, True),
        ({"preprocess": '{"input_px": 32}'}, False),
        ({"res": 32}, False),
    ],
)
def test_an_assumed_resolution_is_said(here: Path, options: dict[str, Any], assumed: bool) -> None:
    state = load_weights("random", get_arch("v3-small"), width=0.35, classes=3).state_dict
    torch.save(state, here / "mine.pth")
    for model in (load_model("v3-small", "mine.pth", **options), load_model("their_nets:plain", **options)):
        assert model.px_assumed is assumed
        said = [note for note in model.notes if "does not state a resolution: 224 px is assumed; set another" in note]
        assert len(said) == assumed
    assert not load_model("v3-small", res=32).px_assumed
    assert not load_model("v3-small", "random", width=0.35, classes=3).notes


@pytest.mark.parametrize(("res", "px"), [(None, 24), (16, 16)])
def test_the_resolution_is_the_checkpoints(here: Path, res: int | None, px: int) -> None:
    model = load_model("their_nets:plain", res=16)
    torch.save(model.net.state_dict(), here / "w.pt")
    (here / "w.json").write_text(json.dumps({"preprocess": at_resolution(IMAGENET, 24).to_json()}))
    loaded = load_model("their_nets:plain", "w.pt", res=res)
    assert loaded.preprocess.input_px == px
    assert not [note for note in loaded.notes if "px" in note]


def test_a_resolution_that_is_assumed_is_said() -> None:
    model = load_model("their_nets:plain")
    assert model.preprocess.input_px == 224
    assert any("224 px is assumed; set another with --res" in note for note in model.notes)
    assert not any("assumed; set another" in note for note in load_model("their_nets:plain", res=16).notes)


@pytest.mark.parametrize(
    ("preprocess", "res", "px", "mean"),
    [
        ("inception", None, 24, 0.5),
        ("inception", 16, 16, 0.5),
        ('{"input_px": 40, "mean": [0.1, 0.1, 0.1]}', None, 40, 0.1),
        ('{"input_px": 40, "mean": [0.1, 0.1, 0.1]}', 16, 16, 0.1),
    ],
)
def test_the_preprocessing_asked_for_stands_above_the_checkpoints(
    here: Path, preprocess: str, res: int | None, px: int, mean: float
) -> None:
    torch.save(load_model("their_nets:plain", res=16).net.state_dict(), here / "w.pt")
    (here / "w.json").write_text(json.dumps({"preprocess": at_resolution(IMAGENET, 24).to_json()}))
    model = load_model("their_nets:plain", "w.pt", res=res, preprocess=preprocess)
    assert (model.preprocess.input_px, model.preprocess.mean[0]) == (px, mean)
    assert model.assumption is None


def test_a_saved_program_is_told_its_labels_and_preprocessing(here: Path) -> None:
    torch.export.save(load_model("their_nets:plain", res=16).program, here / "net.pt2")
    (here / "names.txt").write_text("a\nb\nc\nd\ne\n")
    assert load_model("net.pt2").assumption is not None
    model = load_model("net.pt2", labels=Path("names.txt"), preprocess="unit")
    assert (model.labels, model.assumption) == (tuple("abcde"), None)
    assert (model.preprocess.input_px, model.preprocess.mean, model.preprocess.std) == (16, (0,) * 3, (1,) * 3)
    (here / "names.txt").write_text("a\nb\n")
    with pytest.raises(EdgemobileError, match=r"names\.txt has 2 labels, and net\.pt2 has 5 outputs"):
        load_model("net.pt2", labels=Path("names.txt"))


def test_a_resolution_is_assumed_beside_a_preprocessing_that_has_none() -> None:
    model = load_model("their_nets:plain", preprocess="unit")
    assert (model.preprocess.input_px, model.preprocess.shorter_px) == (224, 256)
    assert [note for note in model.notes if "224 px is assumed" in note]


def test_a_factory_that_draws_its_weights_draws_the_same_each_time() -> None:
    state = torch.random.get_rng_state()
    one, again, other = (load_model("their_nets:drawn", res=16, seed=seed) for seed in (0, 0, 1))
    assert one.sha256 == again.sha256 != other.sha256
    assert torch.equal(torch.random.get_rng_state(), state), "the caller's own draws go on as they were"


def test_other_floats_become_float32_and_that_is_said(here: Path, images: np.ndarray) -> None:
    model = load_model("their_nets:half", res=16)
    assert (
        "their_nets:half returns a net of torch.float16: it is converted to float32, as by `net.float()`" in model.notes
    )
    assert model.rows(images).dtype == np.float32
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten()).half()
    torch.export.save(torch.export.export(net, (torch.zeros(1, 3, 8, 8).half(),)), here / "half.pt2")
    with pytest.raises(Unsupported, match=r"half\.pt2: 0\.weight is torch\.float16\. Supported: float32"):
        load_model("half.pt2")
