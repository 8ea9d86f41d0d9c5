"""Trains a model on images and writes a folder with its checkpoint, and after int8 training the trained integers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from edgemobile.errors import EdgemobileError, require
from edgemobile.graph import Graph
from edgemobile.graph.checksums import checksums_metadata
from edgemobile.images.dataset import open_dataset
from edgemobile.loading.checkpoint import ARCHITECTURE
from edgemobile.loading.model import TorchModel, load_model
from edgemobile.loading.model_spec import is_factory
from edgemobile.loading.trained_integers import ENTRY
from edgemobile.lower.dead_channels import removed_channels, without_dead_channels
from edgemobile.pipeline.manifest import file_metadata
from edgemobile.quant.calibration import calibrate
from edgemobile.quant.ptq import quantize
from edgemobile.quant.recipes import RECIPES, recipe_for
from edgemobile.quant.targets import DEFAULT_TARGET, suited
from edgemobile.quant.torch_integers import IntegerNet
from edgemobile.training.folder import PROGRESS_FILE, save_state, saved_state, training_folder, write_bytes
from edgemobile.training.head import with_new_head
from edgemobile.training.images import TrainingImages, classes_of, split_apart
from edgemobile.training.loop import Answers, Plan, State, answers, train
from edgemobile.training.request import FinetuneRequest, FinetuneResult, Row
from edgemobile.util.progress import Progress, Silent
from edgemobile.util.strict_json import to_json_text
from edgemobile.util.writing import write_whole

__all__ = ["finetune"]

_FLOAT, _INT8 = "float", "int8"
_FLOAT_DECAY = 0.05
_CALIBRATION_BATCH = 32
# The most notes about single images.
_SHOWN = 3


def finetune(request: FinetuneRequest, progress: Progress | None = None) -> FinetuneResult:
    """Train and write the folder `request.out`: NAME.safetensors, NAME.json and, with int8, NAME-int8.tflite.

    After every epoch the state is saved in the folder, and a request with `resume` continues from it. Raises
    EdgemobileError for bad input. The exception of an interruption has the path of the saved state.
    """
    progress = progress or Silent()
    require("safetensors", "export")
    saved = saved_state(request)
    dataset = open_dataset(request.data)
    with progress.step("load the model") as report:
        model = load_model(
            request.model,
            request.weights,
            width=request.width,
            res=request.res,
            preprocess=request.preprocess,
            seed=request.seed,
            on_download=report,
        )
    classes = classes_of(dataset, model.labels, model.classified())
    train_on, held_out, described = split_apart(dataset, request.seed)
    images = TrainingImages(train_on, held_out, classes, model.preprocess)
    images.steps(request.batch)
    if classes.new_head and not request.epochs_in_float:
        raise EdgemobileError(f"{classes.note}. Train it before int8: add --float-epochs 3")
    if request.threads:
        torch.set_num_threads(request.threads)
    with progress.step("read the images held out"):
        check = _Check(*images.check(request.check_images, request.seed))
    with training_folder(request):
        run = _Run(request, model, images, check, _teacher(request, model, images), progress, saved)
        path, float_rows = _in_float(run)
        rows, notes = _in_int8(run, path, float_rows) if request.int8 else (float_rows, ())
        (request.out / PROGRESS_FILE).unlink(missing_ok=True)
    own = (*model.notes, *filter(None, (model.assumption, classes.note)))
    all_notes = (*own, *_skipped(images), *notes)
    return FinetuneResult(path, rows, f"{len(check.classes)} images ({described})", all_notes)


def _skipped(images: TrainingImages) -> Iterator[str]:
    skipped = dict([*images.train.skipped, *images.skipped.items()])
    for name, reason in list(skipped.items())[:_SHOWN]:
        yield f"skipped {name}: {reason}"
    if len(skipped) > _SHOWN:
        yield f"skipped {len(skipped) - _SHOWN} more images"


@dataclass(frozen=True)
class _Check:
    """Images held out f32[N,H,W,3] and their classes i64[N]."""

    images: np.ndarray
    classes: np.ndarray

    def row(self, net: str, logits: np.ndarray, reference: np.ndarray | None) -> Row:
        top = logits.argmax(1)
        agreement = None if reference is None else float(np.mean(top == reference.argmax(1)))
        return Row(net, float(np.mean(top == self.classes)), agreement)


@dataclass(frozen=True)
class _Run:
    """What both trainings use. `saved` is the state to continue from, {} for a new run. A training saves the `rows`
    that were measured before it."""

    request: FinetuneRequest
    model: TorchModel
    images: TrainingImages
    check: _Check
    teacher: Answers | None
    progress: Progress
    saved: State

    @property
    def checkpoint(self) -> Path:
        return self.request.out / f"{self.model.name}.safetensors"

    @property
    def integers(self) -> Path:
        return self.request.out / f"{self.model.name}-int8.tflite"

    def trained(
        self,
        stage: str,
        net: torch.nn.Module,
        teacher: Answers | None,
        rows: tuple[Row, ...] = (),
        *,
        epochs: int,
        lr: float,
        decay: float,
    ) -> torch.nn.Module:
        """`net` trained for `epochs`, continued from the state of `stage` if that was saved."""
        request = self.request
        steps = self.images.steps(request.batch)
        plan = Plan(epochs, steps, lr, decay, request.share, request.seed)
        state = self.saved["run"] if self.saved.get("stage") == stage else None
        with self.progress.step(f"train in {stage}", epochs * steps) as report:
            return train(
                net,
                partial(self.images.epoch, batch=request.batch, seed=request.seed),
                plan,
                teacher=teacher,
                state=state,
                save=partial(save_state, request, stage, rows),
                report=report,
            )


# ---- float ----------------------------------------------------------------------------------------------------------


def _in_float(run: _Run) -> tuple[Path, tuple[Row, ...]]:
    """(the checkpoint of the float net, its rows). The net is trained if the request has float epochs, otherwise
    unchanged."""
    request, model, check = run.request, run.model, run.check
    if run.saved.get("stage") == _INT8:
        return run.checkpoint, tuple(Row(**row) for row in run.saved["rows"])
    net, first = model.net, None
    if run.images.classes.new_head:
        with_new_head(net, model.name, len(run.images.classes.labels), request.seed)
    elif request.epochs_in_float:
        first = answers(net, check.images)
    if request.epochs_in_float:
        net = run.trained(_FLOAT, net, run.teacher, epochs=request.epochs_in_float, lr=request.lr, decay=_FLOAT_DECAY)
    last = answers(net, check.images)
    before = () if first is None else (check.row("float, before", first, last),)
    rows = (*before, check.row("float", last, last))
    _write_checkpoint(run, net)
    return run.checkpoint, rows


def _write_checkpoint(run: _Run, net: torch.nn.Module) -> None:
    from safetensors.torch import save

    state = {key: value.detach().contiguous().clone() for key, value in net.state_dict().items()}
    table = run.model.facts.get(ARCHITECTURE)
    write_bytes(run.checkpoint, save(state, None if table is None else {ARCHITECTURE: json.dumps(table)}))
    _write_facts(run, {})
    # The integers of an earlier training do not belong to these weights.
    run.integers.unlink(missing_ok=True)


def _write_facts(run: _Run, more: dict[str, object]) -> None:
    model, request = run.model, run.request
    facts = {
        **{key: value for key, value in model.facts.items() if key in ("width", "factory")},
        "arch": model.name,
        "labels": list(run.images.classes.labels),
        "preprocess": run.images.preprocess.to_json(),
        "sha256": hashlib.sha256(run.checkpoint.read_bytes()).hexdigest(),
        "from": {"source": model.source, "sha256": model.sha256},
        "training": json.loads(request.decisive),
        **more,
    }
    write_whole(run.checkpoint.with_suffix(".json"), to_json_text(facts))


# ---- int8 -----------------------------------------------------------------------------------------------------------


def _in_int8(run: _Run, path: Path, float_rows: tuple[Row, ...]) -> tuple[tuple[Row, ...], tuple[str, ...]]:
    """(the rows of all nets, notes): quantize the checkpoint at `path`, train its integers and write them."""
    request, check = run.request, run.check
    spec, weights = (request.model, str(path)) if is_factory(request.model) else (str(path), None)
    model = load_model(spec, weights)
    whole = model.graph()
    graph = without_dead_channels(whole)
    with run.progress.step("read the calibration images"):
        calibration = run.images.sample(request.calib_images, request.seed)
    batches = [calibration[i : i + _CALIBRATION_BATCH] for i in range(0, len(calibration), _CALIBRATION_BATCH)]
    recipe = suited(RECIPES[recipe_for(len(calibration), real=True)], DEFAULT_TARGET)
    quantized = quantize(
        calibrate(graph, batches, strict=True, largest=model.preprocess.largest), recipe, progress=run.progress
    )
    net = IntegerNet(quantized.graph)
    reference = answers(model.net, check.images)
    before = check.row("int8, before", answers(net, check.images), reference)
    trained = run.trained(
        _INT8, net, run.teacher or model.net.eval(), float_rows, epochs=request.epochs, lr=request.int8_lr, decay=0.0
    )
    after = check.row("int8", answers(trained, check.images), reference)
    metadata = file_metadata(model, "int8", embed_preprocess=False, removed_channels=_removed(whole, graph))
    assert isinstance(trained, IntegerNet)
    _write_integers(run, trained.graph(), metadata)
    return (*float_rows, before, after), quantized.notes


def _removed(whole: Graph, graph: Graph) -> int:
    return sum(removed_channels(whole, graph).values())


def _write_integers(run: _Run, graph: Graph, metadata: Mapping[str, str]) -> None:
    from edgemobile.exporters import tflite

    data = tflite.to_bytes(graph, metadata={**metadata, **checksums_metadata(graph.tensors)})
    write_bytes(run.integers, data)
    _write_facts(run, {ENTRY: {"file": run.integers.name, "sha256": hashlib.sha256(data).hexdigest()}})


# ---- the teacher -----------------------------------------------------------------------------------------------------


def _teacher(request: FinetuneRequest, model: TorchModel, images: TrainingImages) -> Answers | None:
    """The net whose answers are learned in addition to the labels. Raises EdgemobileError if its classes or its
    preprocessing differ from those of the training."""
    if request.teacher is None:
        return None
    teacher = load_model(request.teacher, res=model.preprocess.input_px)
    wanted = len(images.classes.labels)
    if teacher.classified() != wanted or (teacher.labels or images.classes.labels) != images.classes.labels:
        raise EdgemobileError(
            f"--teacher {request.teacher} has other classes ({teacher.classes}) than the training ({wanted}). Give a "
            "net of the same classes in the same order"
        )
    ours, theirs = model.preprocess, teacher.preprocess
    if (ours.mean, ours.std) != (theirs.mean, theirs.std):
        raise EdgemobileError(
            f"--teacher {request.teacher} has another preprocessing (mean {theirs.mean}, std {theirs.std}) than "
            f"{request.model} (mean {ours.mean}, std {ours.std}). Train both with the same"
        )
    return teacher.net.eval()
