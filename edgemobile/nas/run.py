"""Searches nets for a device: from a model and images to a folder with the checkpoints of a Pareto front."""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection
from dataclasses import dataclass, replace

import torch

from edgemobile.adaptation.cost_table import unit_on
from edgemobile.adaptation.data import full_net
from edgemobile.adaptation.folder import write_checkpoint
from edgemobile.adaptation.pruning import Weights
from edgemobile.errors import EdgemobileError, require
from edgemobile.loading.model import TorchModel, load_model
from edgemobile.models.cost import arch_costs, total
from edgemobile.nas.request import Found, SearchRequest, SearchResult
from edgemobile.nas.space import SHARES, options, uniform
from edgemobile.nas.study import STUDY_FILE, Study
from edgemobile.nas.trial import Trials, trials_of
from edgemobile.training.folder import saved_state, training_folder, write_state
from edgemobile.util.progress import Progress, Silent
from edgemobile.util.strict_json import encode, to_json_text
from edgemobile.util.writing import write_whole

__all__ = ["search"]

_STATE_FILE, _RESULT_FILE, _NETS = "search.pt", "search.json", "nets"


def search(request: SearchRequest, progress: Progress | None = None) -> SearchResult:
    """Search and write the folder `request.out`: the study, and nets/NUMBER.safetensors for the front and the width
    multipliers.

    After every trial the study is saved, and a request with `resume` goes on from it, also to more `trials`. Raises
    EdgemobileError for bad input. An interruption carries the path of what is saved.
    """
    progress = progress or Silent()
    require("safetensors", "export")
    require("optuna", "search")
    unit = unit_on(request.on, request.unit)
    is_resumed = bool(saved_state(request, _STATE_FILE, "search"))
    with progress.step("load the model") as report:
        model = load_model(request.model, request.weights, seed=request.seed, on_download=report)
    full = full_net(model)
    if request.threads:
        torch.set_num_threads(request.threads)
    with progress.step("read the images"):
        trials = trials_of(request, model, full, unit)
    with training_folder(request, _STATE_FILE):
        if not is_resumed:
            shutil.rmtree(request.out / _NETS, ignore_errors=True)
            (request.out / STUDY_FILE).unlink(missing_ok=True)
            write_state(request.out / _STATE_FILE, {"request": request.decisive})
        (request.out / _NETS).mkdir(exist_ok=True)
        return _Run(request, model, full, trials, progress).result()


@dataclass(frozen=True)
class _Run:
    request: SearchRequest
    model: TorchModel
    full: Weights
    trials: Trials
    progress: Progress

    def result(self) -> SearchResult:
        request, arch = self.request, self.full.arch
        study = Study(request.out, options(arch, request.res or (arch.input_px,)), request.population, request.seed)
        px = max(request.res or (arch.input_px,))
        multipliers = {share: uniform(arch, px, share) for share in sorted(SHARES, reverse=True)}
        study.begin_with(multipliers.values())
        # An interrupted trial may have left a checkpoint.
        self.keep({found.number for found in self.wanted(study)})
        while (number := study.ended) < request.trials:
            trial, choice = study.ask()
            share = next((share for share, same in multipliers.items() if same == choice), None)
            study.tell(trial, self.tried(trial.number, f"net {number + 1} of {request.trials}", choice, share, study))
            self.keep({found.number for found in self.wanted(study)})
        kept = {found.number: self.held_out(found) for found in self.wanted(study)}
        result = SearchResult(
            request.out,
            request.on,
            self.trials.unit,
            tuple(kept.get(found.number, found) for found in study.found),
            tuple(kept[found.number] for found in study.front),
            tuple(found for found in kept.values() if found.multiplier is not None),
            study.unused,
            f"{request.check_images} images ({self.trials.described})",
            self.model.notes,
        )
        facts = {**encode(result), "out": ".", "request": json.loads(request.decisive)}
        write_whole(request.out / _RESULT_FILE, to_json_text(facts))
        return result

    def wanted(self, study: Study) -> list[Found]:
        """The nets whose checkpoints are kept."""
        front = {found.number for found in study.front}
        return [found for found in study.found if found.number in front or found.multiplier is not None]

    def tried(self, number: int, title: str, choice: dict, share: float | None, study: Study) -> Found | None:
        """The net of a choice after its training, which is not repeated for a choice that was tried before; None if
        the choice is no net."""
        for found in study.found:
            if found.choice == choice:
                return found
        net = self.trials.net(choice)
        if net is None:
            return None
        trained = self.trials.trained(net, self.progress, title)
        whole = total(arch_costs(net.arch))
        file = f"{_NETS}/{number}.safetensors"
        self.write(file, trained)
        cost, top1 = self.trials.cost(trained), self.trials.top1(trained)
        return Found(number, choice, cost, top1, whole.params, whole.macs, share, None, file)

    def write(self, file: str, net: Weights) -> None:
        origin = {"source": self.model.source, "sha256": self.model.sha256}
        preprocess = self.trials.preprocess_at(net.arch.input_px)
        write_checkpoint(self.request.out / file, net, self.trials.held_out.classes.labels, preprocess, origin)

    def keep(self, numbers: Collection[int]) -> None:
        for path in (self.request.out / _NETS).glob("*.safetensors"):
            if path.stem.isdecimal() and int(path.stem) not in numbers:
                path.unlink()

    def held_out(self, found: Found) -> Found:
        model = load_model(str(self.request.out / found.file))
        if model.arch is None:
            raise EdgemobileError(f"{found.file} is not a net of a search. Begin again with --overwrite")
        net = Weights.of(model.arch, model.net)
        return replace(found, held_out_top1=self.trials.held_out_top1(net))
