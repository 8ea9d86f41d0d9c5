"""`adapt`: the budget, what is written, a killed run, and what is refused. Costs are counted from the table here; that
they can be predicted on a device is in test_cost_model.py."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from edgemobile.adaptation import run
from edgemobile.adaptation.cost_model import CostModel
from edgemobile.adaptation.features import Tile
from edgemobile.adaptation.folder import PROGRESS_FILE
from edgemobile.adaptation.request import AdaptRequest, AdaptResult
from edgemobile.api import Adapted
from edgemobile.errors import EdgemobileError, Unsupported
from edgemobile.loading.checkpoint import arch_of, load_weights
from edgemobile.loading.model import load_model
from edgemobile.model_file.model_file import ModelFile
from edgemobile.models.arch import Arch, get_arch
from edgemobile.pipeline.export import export
from edgemobile.pipeline.request import ExportRequest
from edgemobile.preprocess import IMAGENET, at_resolution
from edgemobile.training.request import FinetuneRequest
from edgemobile.training.run import finetune

_PX = 32
_LABELS = ["blue", "green", "red"]
_PRODUCTS = {"products": 1.0, "vector": 1.0, "depthwise 3": 5.0, "depthwise 5": 12.0}


@pytest.fixture(scope="module")
def net(colours: Path) -> Path:
    """A v3-small at width 0.5 with random weights."""
    checkpoint = load_weights("random", get_arch("v3-small"), width=0.5, classes=3)
    path = colours.parent / "net.safetensors"
    facts = {"labels": _LABELS, "preprocess": at_resolution(IMAGENET, _PX).to_json()}
    save_file(dict(checkpoint.state_dict), path, {key: json.dumps(value) for key, value in facts.items()})
    return path


@pytest.fixture(autouse=True)
def _counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Costs by formula: the device is not asked."""
    model = CostModel("formula", "instructions", Tile(2, 8, 8), _PRODUCTS, (0.0,))
    archs: dict[str, Arch] = {}

    def file(name: str, arch: Arch, *_: object) -> str:
        archs[name] = arch
        return name

    def measured(device: str, unit: str, files: Sequence[ModelFile], progress: object) -> list[float]:
        # Measured a little above what is predicted, as may happen: the search goes on then.
        return [model.cost(archs[str(name)]) * 1.01 for name in files]

    monkeypatch.setattr(run, "unit_on", lambda device, asked: asked or "instructions")
    monkeypatch.setattr(run, "cost_model", lambda *_: model)
    monkeypatch.setattr(run, "int8_file", file)
    monkeypatch.setattr(run, "measured", measured)


def _request(net: Path, colours: Path, out: Path, **options: object) -> AdaptRequest:
    told: dict = {"on": ("formula",), "images": 16, "steps": 2, "candidates": 2, "threads": 1, **options}
    return AdaptRequest(str(net), colours, out, **told)


@pytest.fixture(scope="module")
def adapted(net: Path, colours: Path, tmp_path_factory: pytest.TempPathFactory) -> AdaptResult:
    with pytest.MonkeyPatch.context() as patch:
        _counted.__wrapped__(patch)
        return run.adapt(_request(net, colours, tmp_path_factory.mktemp("adapted") / "out", epochs=1, batch=16))


def test_the_net_is_within_the_budget_and_beside_the_width_multiplier(adapted: AdaptResult) -> None:
    full, smaller, narrow = adapted.nets
    assert [one.name for one in adapted.nets] == ["full", "adapted", "width-multiplier"]
    assert smaller.costs[0] <= adapted.budgets["formula"] == pytest.approx(0.6 * full.costs[0])
    # The multiplier goes in hundredths, and its channels in eights.
    assert 0.4 * full.costs[0] < narrow.costs[0] <= adapted.budgets["formula"]
    assert full.trained_top1 is None
    assert smaller.trained_top1 is not None
    costs = [step.costs[0] for step in adapted.steps]
    assert costs == sorted(costs, reverse=True)
    assert [len(step.tried) for step in adapted.steps][:3] == [0, 0, 2]
    for step in adapted.steps[2:]:
        assert step.change in [one.change for one in step.tried]
    assert any("width-multiplier is v3-small at width 0." in note for note in adapted.notes)


def test_the_record_of_the_python_api(adapted: AdaptResult) -> None:
    record = Adapted.of(adapted)
    assert "width-multiplier" in str(record)
    pytest.importorskip("matplotlib")
    assert record.plot()._repr_svg_().count("<svg") == 1


def test_the_checkpoint_says_what_it_is(adapted: AdaptResult, tmp_path: Path) -> None:
    path = adapted.checkpoint
    names = {
        "adaptation.json",
        "steps.jsonl",
        "adapted.safetensors",
        "full.safetensors",
        "width-multiplier.safetensors",
    }
    assert {one.name for one in path.parent.iterdir()} == names
    lines = [json.loads(line) for line in (path.parent / "steps.jsonl").read_text().splitlines()]
    assert [line["change"] for line in lines] == [step.change for step in adapted.steps]
    # Alone, without a file beside it.
    alone = tmp_path / "alone.safetensors"
    alone.write_bytes(path.read_bytes())
    model = load_model(str(alone))
    assert (model.name, model.labels, model.preprocess.input_px) == ("v3-small", ("blue", "green", "red"), _PX)
    assert arch_of(str(alone)).blocks != get_arch("v3-small").blocks
    result = export(ExportRequest(str(alone), tmp_path / "files", formats=("tflite",), precisions=("float32",)))
    assert result.passed
    manifest = json.loads((tmp_path / "files" / "manifest.json").read_text())
    assert manifest["model"]["architecture"]["model"] == "v3-small"
    data = Path(json.loads((path.parent / "adaptation.json").read_text())["request"]["data"])
    again = finetune(FinetuneRequest(str(alone), data, tmp_path / "tuned", epochs=1, batch=16, threads=1))
    assert arch_of(str(again.checkpoint)) == arch_of(str(alone))


def test_a_killed_run_resumes_to_the_same_net(
    adapted: AdaptResult, net: Path, colours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = _request(net, colours, tmp_path / "out", epochs=1, batch=16)
    save, saved = run.save_search, []

    def killed(*arguments: object) -> None:
        save(*arguments)
        saved.append(1)
        if len(saved) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(run, "save_search", killed)
    with pytest.raises(KeyboardInterrupt, match="continue with --resume"):
        run.adapt(request)
    monkeypatch.setattr(run, "save_search", save)
    assert (tmp_path / "out" / PROGRESS_FILE).is_file()
    with pytest.raises(EdgemobileError, match=r"exists already\. Use --resume"):
        run.adapt(request)
    with pytest.raises(EdgemobileError, match="has other values of --steps"):
        run.adapt(_request(net, colours, tmp_path / "out", epochs=1, batch=16, steps=3, resume=True))

    # A second kill, after the adapted net is trained and before the other is.
    train, trained = run.finetune, []

    def killed_again(*arguments: object) -> None:
        if trained:
            raise KeyboardInterrupt
        trained.append(train(*arguments))

    monkeypatch.setattr(run, "finetune", killed_again)
    resumed = _request(net, colours, tmp_path / "out", epochs=1, batch=16, resume=True)
    with pytest.raises(KeyboardInterrupt):
        run.adapt(resumed)
    monkeypatch.setattr(run, "finetune", train)
    result = run.adapt(resumed)
    assert result.steps == adapted.steps
    for name in ("adapted", "width-multiplier"):
        ours, theirs = (load_file(one.checkpoint.parent / f"{name}.safetensors") for one in (result, adapted))
        assert ours.keys() == theirs.keys()
        assert all(bool((ours[key] == theirs[key]).all()) for key in ours)


def test_several_devices_and_absolute_budgets(
    adapted: AdaptResult, net: Path, colours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = adapted.nets[0].costs[0]
    vectors = CostModel("vectors", "instructions", Tile(2, 8, 8), {"vector": 1.0}, (0.0,))
    products = run.cost_model()
    monkeypatch.setattr(run, "cost_model", lambda device, *_: vectors if device == "vectors" else products)
    asked = f"{0.9 * full / 1e6:.3f}M-instructions"
    result = run.adapt(
        _request(net, colours, tmp_path / "out", on=("formula", "vectors"), budget=asked, compare=False, steps=1)
    )
    assert [one.name for one in result.nets] == ["full", "adapted"]
    assert all(len(step.costs) == 2 for step in result.steps)
    assert not (tmp_path / "out" / "full.safetensors").exists()
    assert result.steps[-1].costs[0] <= result.budgets["formula"]
    with pytest.raises(EdgemobileError, match="the full net is within it already"):
        run.adapt(_request(net, colours, tmp_path / "other", budget="900M-instructions"))
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"budget": "1.5"}, "a share must be above 0 and below 1"),
        ({"budget": "0"}, "a share must be above 0 and below 1"),
        ({"budget": "12 s"}, "Allowed: a share of the cost such as 0.6, a time such as 12ms"),
        ({"budget": "12ms", "unit": "instructions"}, "--budget 12ms is in ms: omit --unit instructions"),
        ({"on": ()}, "--on is empty"),
        ({"images": 4}, "--images must be at least 8, found 4"),
        ({"resume": True}, "no interrupted adaptation"),
        ({"resume": True, "overwrite": True}, "omit one of them"),
    ],
)
def test_refusals(net: Path, colours: Path, tmp_path: Path, options: dict, words: str) -> None:
    with pytest.raises(EdgemobileError) as raised:
        run.adapt(_request(net, colours, tmp_path / "out", **options))
    assert words in str(raised.value)
    assert not (tmp_path / "out").exists()


def test_other_models_and_other_classes_are_refused(colours: Path, tmp_path: Path) -> None:
    with pytest.raises(EdgemobileError, match="a:b cannot be adapted"):
        AdaptRequest("a:b", colours, tmp_path / "out")
    with pytest.raises(Unsupported, match=r"v4-conv-small cannot be adapted\. Supported: v1, v2"):
        run.adapt(AdaptRequest("v4-conv-small", colours, tmp_path / "out", weights="random", res=_PX, on=("formula",)))
    with pytest.raises(EdgemobileError, match=r"has other classes than v3-small.*Train the model on them first"):
        run.adapt(AdaptRequest("v3-small", colours, tmp_path / "out", on=("formula",)))
    assert not (tmp_path / "out").exists()
