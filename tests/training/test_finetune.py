"""Fine-tuning: what is learned, resumed and written, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from edgemobile.errors import EdgemobileError
from edgemobile.graph.interpreter import run_real
from edgemobile.images.dataset import open_dataset
from edgemobile.loading.checkpoint import load_weights
from edgemobile.loading.model import load_model
from edgemobile.loading.trained_integers import trained_integers
from edgemobile.models.arch import get_arch
from edgemobile.pipeline.export import export
from edgemobile.pipeline.request import ExportRequest
from edgemobile.training.folder import PROGRESS_FILE
from edgemobile.training.images import TrainingImages, classes_of, split_apart
from edgemobile.training.loop import Plan
from edgemobile.training.request import FinetuneRequest
from edgemobile.training.run import finetune
from edgemobile.util.progress import Report

_PX = 32


def _request(colours: Path, out: Path, **options: object) -> FinetuneRequest:
    told: dict = {
        "weights": "random", "width": 0.35, "res": _PX, "int8": True, "float_epochs": 2, "epochs": 2, "batch": 16,
        "lr": 0.01, "calib_images": 32, "threads": 1, **options,
    }  # fmt: skip
    return FinetuneRequest("v3-small", colours, out, **told)


@pytest.fixture(scope="module")
def tuned(colours: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run of both trainings."""
    out = tmp_path_factory.mktemp("tuned") / "tuned"
    result = finetune(_request(colours, out))
    assert [row.net for row in result.rows] == ["float", "int8, before", "int8"]
    assert any("last layer is new" in note and "3" in note for note in result.notes)
    assert result.held_out.startswith("6 images")
    assert sorted(path.name for path in out.iterdir()) == [
        "v3-small-int8.tflite", "v3-small.json", "v3-small.safetensors",
    ]  # fmt: skip
    return out


def test_the_checkpoint_says_all_that_an_export_needs(tuned: Path) -> None:
    checkpoint = load_weights(str(tuned / "v3-small.safetensors"), get_arch("v3-small"))
    assert checkpoint.labels == ("blue", "green", "red")
    assert (checkpoint.width, checkpoint.classes, checkpoint.stated_px) == (0.35, 3, _PX)


def test_the_export_has_exactly_the_trained_integers(tuned: Path, tmp_path: Path) -> None:
    spec = str(tuned / "v3-small.safetensors")
    model = load_model(spec)
    graph, file = trained_integers(Path(spec), model.sha256, model.name)
    request = ExportRequest(spec, tmp_path / "out", precisions=("int8",), check_images=4)
    result = export(request)
    assert any(file in note for note in result.notes)
    for suffix in ("onnx", "tflite"):
        assert (tmp_path / "out" / f"v3-small-int8.{suffix}").is_file()
    assert all(one.max_lsb is not None and one.max_lsb <= 1 for one in result.files)
    written = load_model_int8(tmp_path / "out" / "v3-small-int8.tflite")
    images = np.random.default_rng(0).normal(size=(4, _PX, _PX, 3)).astype(np.float32)
    np.testing.assert_array_equal(run_real(written, images), run_real(graph, images))
    others = export(replace(request, out=tmp_path / "ptq", use_trained=False))
    assert any("not used" in note for note in others.notes)
    quantized = load_model_int8(tmp_path / "ptq" / "v3-small-int8.tflite")
    assert not np.array_equal(run_real(quantized, images), run_real(graph, images))


def load_model_int8(path: Path):
    from edgemobile.exporters.tflite_graph import read_graph

    return read_graph(path.read_bytes())


def test_integers_for_other_images_are_not_used(tuned: Path, tmp_path: Path) -> None:
    spec = str(tuned / "v3-small.safetensors")
    for options in ({"res": 48}, {"batch": 2}):
        result = export(ExportRequest(spec, tmp_path / str(options), precisions=("int8",), check_images=4, **options))
        assert any("is not used: it is for images of [1, 32, 32, 3]" in note for note in result.notes)


def test_changed_integers_are_refused(tuned: Path, tmp_path: Path) -> None:
    for path in tuned.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    spec = tmp_path / "v3-small.safetensors"
    facts = json.loads(spec.with_suffix(".json").read_text())
    (tmp_path / "v3-small-int8.tflite").write_bytes((tuned / "v3-small-int8.tflite").read_bytes() + b"\0")
    with pytest.raises(EdgemobileError, match="sha256 differ"):
        trained_integers(spec, facts["sha256"], "v3-small")
    facts["int8"]["file"] = "../elsewhere.tflite"
    spec.with_suffix(".json").write_text(json.dumps(facts))
    with pytest.raises(EdgemobileError, match="next to it"):
        trained_integers(spec, facts["sha256"], "v3-small")


class _Interrupted:
    """Progress that is interrupted when the step called `title` has done `at` parts."""

    def __init__(self, title: str, at: int) -> None:
        self.title, self.at = title, at

    @contextmanager
    def step(self, title: str, total: int | None = None) -> Iterator[Report]:
        def report(done: int, total: int | None = None) -> None:
            if title == self.title and done == self.at:
                raise KeyboardInterrupt

        yield report


# 54 images are 3 batches of 16 an epoch.
@pytest.mark.parametrize(("title", "at"), [("train in float", 5), ("train in int8", 2), ("train in int8", 4)])
def test_an_interrupted_run_resumed_ends_with_the_same_files(
    colours: Path, tuned: Path, tmp_path: Path, title: str, at: int
) -> None:
    request = _request(colours, tmp_path / "again")
    with pytest.raises(KeyboardInterrupt, match="--resume"):
        finetune(request, _Interrupted(title, at))
    assert (request.out / PROGRESS_FILE).is_file()
    with pytest.raises(EdgemobileError, match=r"exists already. Use --resume"):
        finetune(request)
    with pytest.raises(EdgemobileError, match="other values of --epochs"):
        finetune(replace(request, epochs=5, resume=True))
    finetune(replace(request, resume=True))
    for name in ("v3-small.safetensors", "v3-small-int8.tflite"):
        assert (request.out / name).read_bytes() == (tuned / name).read_bytes()
    assert not (request.out / PROGRESS_FILE).exists()


def test_a_run_interrupted_before_its_first_epoch_leaves_nothing(colours: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        finetune(_request(colours, tmp_path / "new"), _Interrupted("train in float", 1))
    assert not (tmp_path / "new").exists()


def test_a_net_of_the_same_classes_keeps_its_head(colours: Path, tuned: Path, tmp_path: Path) -> None:
    """Trained further from its own checkpoint, with it as the teacher."""
    spec = str(tuned / "v3-small.safetensors")
    options = {"weights": None, "width": None, "res": None, "int8": False, "float_epochs": 0, "epochs": 1}
    request = replace(_request(colours, tmp_path / "more", **options), model=spec, teacher=spec)
    result = finetune(request)
    assert [row.net for row in result.rows] == ["float, before", "float"]
    assert not any("new" in note for note in result.notes)
    assert {path.name for path in request.out.iterdir()} == {"v3-small.json", "v3-small.safetensors"}
    before, after = (load_file(folder / "v3-small.safetensors") for folder in (tuned, request.out))
    assert before.keys() == after.keys()
    assert not torch.equal(before["classifier.3.weight"], after["classifier.3.weight"])


def test_a_trained_net_learns_other_classes(colours: Path, tmp_path: Path) -> None:
    """Of images that it was not trained on; before, its new head knew nothing."""
    request = FinetuneRequest("v3-small", colours, tmp_path / "out", res=_PX, epochs=4, batch=16, lr=2e-3, threads=1)
    (row,) = finetune(request).rows
    assert row.top1 == 1.0


def test_a_diverged_training_is_an_error(colours: Path, tmp_path: Path) -> None:
    with pytest.raises(EdgemobileError, match="diverged at step"):
        finetune(_request(colours, tmp_path / "out", lr=1e30))
    assert not (tmp_path / "out").exists()


def test_an_input_in_the_output_is_refused(colours: Path, tuned: Path) -> None:
    spec = str(tuned / "v3-small.safetensors")
    for given in ({"model": spec, "weights": None}, {"weights": spec}, {"teacher": spec}):
        with pytest.raises(EdgemobileError, match="where the result is written"):
            finetune(replace(_request(colours, tuned, overwrite=True), **given))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"epochs": 0}, "--epochs must be at least 1, found 0"),
        ({"lr": 0.0}, "--lr must be above 0"),
        ({"teacher_share": 1.5}, "--teacher-share must be from 0 to 1"),
        ({"int8": False}, "--float-epochs is for --int8"),
        ({"resume": True, "overwrite": True}, "omit one"),
        ({"resume": True}, "no interrupted training"),
        ({"batch": 64}, "54 training images, fewer than a --batch of 64"),
        ({"float_epochs": 0}, "add --float-epochs"),
        ({"data": Path("nowhere")}, "does not exist"),
        ({"model": "theirs.tflite"}, "cannot be trained"),
        ({"teacher": "v3-small"}, "other classes"),
    ],
)
def test_bad_input_is_one_error(colours: Path, tmp_path: Path, options: dict, words: str) -> None:
    with pytest.raises(EdgemobileError, match=words):
        finetune(replace(_request(colours, tmp_path / "out"), **options))
    assert not (tmp_path / "out").exists()


def test_images_of_one_class_or_none_are_refused(colours: Path) -> None:
    for folder, words in ((colours / "red", "no class folders"), (colours, "one class folder")):
        dataset = open_dataset(folder)
        one = dataset if folder != colours else replace(dataset, classes=("red",))
        with pytest.raises(EdgemobileError, match=words):
            classes_of(one, None, 3)


def test_batches_depend_on_seed_and_epoch_alone(colours: Path) -> None:
    dataset = open_dataset(colours)
    train, held, _ = split_apart(dataset, 0)
    assert len(train) == 54
    assert not set(train.names) & set(held.names)
    preprocess = load_model("v3-small", "random", res=_PX).preprocess
    images = TrainingImages(train, held, classes_of(dataset, ("red", "green", "blue"), 3), preprocess)
    first, again, next_epoch = (list(images.epoch(number, 16, seed=1)) for number in (0, 0, 1))
    assert len(first) == 3
    for (pixels, classes), (same, _), (other, _) in zip(first, again, next_epoch, strict=True):
        np.testing.assert_array_equal(pixels, same)
        assert not np.array_equal(pixels, other)
        # The largest colour channel is the class, by the model's order of labels.
        scaled = pixels.mean((1, 2)) * preprocess.std + preprocess.mean
        np.testing.assert_array_equal(scaled.argmax(1), classes)


def test_the_schedule_warms_up_and_ends_near_zero() -> None:
    plan = Plan(epochs=2, steps=50, lr=0.1, decay=0, share=0, seed=0)
    rates = [plan.lr_at(step) for step in range(100)]
    assert np.argmax(rates) == 10
    assert rates[10] == 0.1
    assert rates[0] < 0.02
    assert rates[-1] < 0.001
