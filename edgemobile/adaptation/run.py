"""Adapts a model to a budget on devices: from a model and images to a folder with a smaller checkpoint."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch

from edgemobile.adaptation.cost_model import CostModel
from edgemobile.adaptation.cost_table import HELD_OUT, cost_model, int8_file, measured, unit_on
from edgemobile.adaptation.data import Data, full_net, read_images
from edgemobile.adaptation.folder import PROGRESS_FILE, save_search, saved_search, write_checkpoint
from edgemobile.adaptation.limits import Limits
from edgemobile.adaptation.multiplier import narrowed, width_within
from edgemobile.adaptation.pruning import Weights
from edgemobile.adaptation.repair import quality_of
from edgemobile.adaptation.request import AdaptRequest, AdaptResult, Net
from edgemobile.adaptation.search import Search, searched, step_of
from edgemobile.errors import EdgemobileError, require
from edgemobile.loading.checkpoint import ARCHITECTURE
from edgemobile.loading.model import TorchModel, load_model
from edgemobile.models.cost import arch_costs, total
from edgemobile.training.folder import PROGRESS_FILE as TRAINING_FILE
from edgemobile.training.folder import training_folder
from edgemobile.training.request import FinetuneRequest
from edgemobile.training.run import finetune
from edgemobile.util.progress import Progress, Silent
from edgemobile.util.strict_json import encode, to_json_text
from edgemobile.util.writing import write_whole

__all__ = ["ADAPTED", "FULL", "MULTIPLIER", "adapt"]

ADAPTED, MULTIPLIER, FULL = "adapted", "width-multiplier", "full"
_RESULT_FILE = "adaptation.json"
_TRAINING = "training"
_CALIBRATED = 32
# A search ends by predicted costs; so often it goes on for a net that was then measured above the budget.
_CORRECTIONS = 5


def adapt(request: AdaptRequest, progress: Progress | None = None) -> AdaptResult:
    """Adapt and write the folder `request.out`: adapted.safetensors, and with `compare` width-multiplier.safetensors.

    After every step of the search and every epoch the state is saved in the folder, and a request with `resume` goes on
    from it. Raises EdgemobileError for bad input, for a budget that cannot be met, and for a cost model that does not
    predict other nets. An interruption carries the path of the saved state.
    """
    progress = progress or Silent()
    require("safetensors", "export")
    units = [unit_on(device, request.allowed.unit or request.unit) for device in request.on]
    with progress.step("load the model") as report:
        model = load_model(request.model, request.weights, res=request.res, seed=request.seed, on_download=report)
    full = full_net(model)
    begun = saved_search(request, full.arch)
    if request.threads:
        torch.set_num_threads(request.threads)
    with progress.step("read the images"):
        data = read_images(request, model)
    with training_folder(request, PROGRESS_FILE):
        if begun is None:
            shutil.rmtree(request.out / _TRAINING, ignore_errors=True)
        models = tuple(
            cost_model(device, unit, full.arch, progress) for device, unit in zip(request.on, units, strict=True)
        )
        result = _Run(request, model, full, data, models, progress).result(begun)
        shutil.rmtree(request.out / _TRAINING, ignore_errors=True)
        (request.out / PROGRESS_FILE).unlink(missing_ok=True)
    return result


@dataclass(frozen=True)
class _Made:
    """A net of the result before training: its name is that of its file. `costs` are measured."""

    name: str
    net: Weights
    costs: tuple[float, ...]


@dataclass(frozen=True)
class _Run:
    request: AdaptRequest
    model: TorchModel
    full: Weights
    data: Data
    models: tuple[CostModel, ...]
    progress: Progress

    def result(self, begun: Search | None) -> AdaptResult:
        full = self.made(FULL, self.full)
        limits = _limits(self.request, self.models, full.costs)
        if begun is None:
            first = step_of(FULL, self.full, limits, self.data.images.quality(self.full))
            begun = Search(self.full, (first,))
        search, adapted = self.within(begun, limits)
        others, notes = self.compared(limits) if self.request.compare else ((), ())
        nets = tuple(self.finished(made) for made in (full, adapted, *others))
        result = AdaptResult(
            self.request.out / f"{ADAPTED}.safetensors",
            {model.device: model.unit for model in self.models},
            {model.device: model.largest_error for model in self.models},
            HELD_OUT,
            dict(zip(self.request.on, limits.costs, strict=True)),
            search.steps,
            nets,
            self.data.held_out,
            (*self.data.notes, *notes),
        )
        facts = {**encode(result), "checkpoint": result.checkpoint.name, "request": json.loads(self.request.decisive)}
        write_whole(self.request.out / _RESULT_FILE, to_json_text(facts))
        return result

    def made(self, name: str, net: Weights) -> _Made:
        """`net`, measured as an int8 file on every device."""
        file = int8_file(name, net.arch, net.module(), self.data.images.repair[:_CALIBRATED])
        costs = (measured(model.device, model.unit, [file], self.progress)[0] for model in self.models)
        return _Made(name, net, tuple(costs))

    def within(self, search: Search, limits: Limits) -> tuple[Search, _Made]:
        """The search until its net is measured to be within the `limits`.

        Raises EdgemobileError if it still is not after a few corrections: the cost on the device changes.
        """
        request, aims = self.request, limits
        for _ in range(_CORRECTIONS):
            search = searched(
                search,
                self.full.arch,
                aims,
                self.data.images,
                steps=request.steps,
                candidates=request.candidates,
                save=partial(save_search, request),
                progress=self.progress,
            )
            made = self.made(ADAPTED, search.net)
            excess = [cost / limit for cost, limit in zip(made.costs, limits.costs, strict=True)]
            if max(excess) <= 1:
                return search, made
            aims = aims.tightened([min(1, 1 / one) for one in excess])
        raise EdgemobileError(
            f"the net is measured {max(excess) - 1:.1%} above the budget, where it was predicted within it. On a "
            "board, measure again when it is idle and cool; what was found is kept for --resume"
        )

    def compared(self, limits: Limits) -> tuple[tuple[_Made, ...], tuple[str, ...]]:
        """(the width multiplier at the same cost if there is one, notes)."""
        arch = self.model.arch
        assert arch is not None
        if ARCHITECTURE in self.model.facts:
            return (), (f"no {MULTIPLIER} beside it: the model is an adapted one, with widths of its own",)
        width = width_within(arch, limits)
        if width is None:
            return (), (f"no {MULTIPLIER} beside it: none is within the budget with the same skips",)
        with self.progress.step(f"cut and repair the width multiplier {width:.2f}"):
            net = narrowed(self.full, arch, width, self.data.images)
        return (self.made(MULTIPLIER, net),), (f"{MULTIPLIER} is {self.model.name} at width {width:.2f}, cut likewise",)

    def finished(self, made: _Made) -> Net:
        """The row of a net, after training if epochs are asked for; its file is written."""
        epochs = self.request.epochs
        top1 = self.top1(made.net)
        parameters = total(arch_costs(made.net.arch)).params
        if made.name != FULL or epochs:
            self.write(made.name, made.net)
        if made.name == FULL or not epochs:
            return Net(made.name, made.costs, parameters, top1, None)
        trained = self.trained(made)
        self.write(made.name, trained)
        return Net(made.name, made.costs, parameters, top1, self.top1(trained))

    def top1(self, net: Weights) -> float:
        return quality_of(net.module(), self.data.check, self.data.check_classes).top1

    def write(self, name: str, net: Weights) -> None:
        origin = {"source": self.model.source, "sha256": self.model.sha256}
        path = self.request.out / f"{name}.safetensors"
        write_checkpoint(path, net, self.data.labels, self.model.preprocess, origin)

    def trained(self, made: _Made) -> Weights:
        """`made` trained on the images, with the full net as its teacher; from where it was interrupted."""
        request, out = self.request, self.request.out / _TRAINING / made.name
        checkpoint = out / f"{self.model.name}.safetensors"
        begun = (out / TRAINING_FILE).is_file()
        if begun or not checkpoint.is_file():
            asked = FinetuneRequest(
                model=str(request.out / f"{made.name}.safetensors"),
                data=request.data,
                out=out,
                epochs=request.epochs,
                batch=request.batch,
                lr=request.lr,
                teacher=str(request.out / f"{FULL}.safetensors"),
                check_images=request.check_images,
                threads=request.threads,
                seed=request.seed,
                resume=begun,
                overwrite=not begun,
            )
            finetune(asked, self.progress)
        return replace(made.net, state=load_model(str(checkpoint)).net.state_dict())


def _limits(request: AdaptRequest, models: tuple[CostModel, ...], costs: Sequence[float]) -> Limits:
    """What a net may cost on each device. Raises EdgemobileError if the full net is within that already."""
    budget = request.allowed
    limits = tuple(budget.amount if budget.unit else budget.amount * cost for cost in costs)
    if all(cost <= limit for cost, limit in zip(costs, limits, strict=True)):
        found = ", ".join(
            f"{cost:.4g} {model.unit} on {model.device}" for model, cost in zip(models, costs, strict=True)
        )
        raise EdgemobileError(f"--budget {request.budget}: the full net is within it already: {found}")
    return Limits(models, limits)
