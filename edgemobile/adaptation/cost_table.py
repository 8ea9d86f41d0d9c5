"""Measures what nets of a family cost on a device, as int8 files, and fits a CostModel to that.

The nets have random widths, so that every kind of work varies apart from the others, and random weights: what kernels
execute does not depend on them. Hard-swishes are written as in an int8 export, with the gate of the stem split; an
export may split further gates where the images show that it is worth it (quant/hardswish_gates.py).
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from edgemobile.adaptation.cost_model import CostModel, Unit, fitted
from edgemobile.adaptation.pruning import droppable_blocks, has_same_structure
from edgemobile.devices.host.folders import cache_folder
from edgemobile.devices.host.profiles import find_device
from edgemobile.devices.host.records import Case, Run, Settings, load_run, save_run
from edgemobile.errors import EdgemobileError, Unsupported
from edgemobile.exporters import tflite
from edgemobile.exporters.model_files import model_file
from edgemobile.latency.estimates import on_boards
from edgemobile.latency.run import BenchRequest, bench
from edgemobile.latency.statistics import summarize
from edgemobile.loading.checkpoint import RANDOM, build, load_weights
from edgemobile.lower import export_program, lower
from edgemobile.lower.dead_channels import without_dead_channels
from edgemobile.lower.module_trace import trace_modules
from edgemobile.model_file.model_file import ModelFile
from edgemobile.models.arch import Arch
from edgemobile.models.channel_groups import channel_groups, with_widths
from edgemobile.quant.ptq import ptq
from edgemobile.quant.recipe import Recipe, Rule
from edgemobile.util.progress import Progress

__all__ = ["FITTED", "HELD_OUT", "cost_model", "int8_file", "measured", "random_nets", "unit_on"]

# How many nets a model is fitted to, and on how many others it is checked.
FITTED, HELD_OUT = 32, 20
_NARROWEST = 0.15
_DROPPED = 0.15
_COUNTED_RUNS = 2
# What decides which ops a file has, and nothing that takes time.
_RECIPE = Recipe(
    "for-costs",
    rules=(Rule(observer="minmax"),),
    split_gates="stem",
    equalize=0,
    noise_optimal_scaling=False,
    refit=0,
    clip_weights=False,
    bias_correction=False,
)


def unit_on(device: str, asked: Unit | None) -> Unit:
    """What is measured on `device`: `asked`, else instructions on an emulated core and ms on a board.

    Raises EdgemobileError for an unknown device, Unsupported for instructions on a board.
    """
    emulated = _is_emulated(device)
    if asked == "instructions" and not emulated:
        raise Unsupported(f"instructions are counted on emulated cores, and {device} is none. Give a time: 12ms")
    return asked or ("instructions" if emulated else "ms")


def cost_model(device: str, unit: Unit, base: Arch, progress: Progress) -> CostModel:
    """The model of the family of `base`, at its resolution and classes, on `device`.

    Measured runs are kept in the user's cache by the content of their files, and used again if one of the files still
    costs the same. Raises EdgemobileError if the model does not predict other nets, and what a bench raises.
    """
    nets = random_nets(base, FITTED + HELD_OUT)
    with progress.step(f"write {len(nets)} nets of {base.name}", len(nets)) as report:
        files = []
        for number, net in enumerate(nets):
            files.append(_random_file(net, number))
            report(number + 1)
    run = _cached(device, unit, files) or _fresh(device, files, progress)
    costs = [_cost(run, file, unit) for file in files]
    return fitted(device, unit, nets[:FITTED], costs[:FITTED], nets[FITTED:], costs[FITTED:])


def measured(device: str, unit: Unit, files: Sequence[ModelFile], progress: Progress | None = None) -> list[float]:
    """What each of the files costs on `device`."""
    run = bench(BenchRequest(tuple(files), device, _settings(device)), progress)
    return [_cost(run, file, unit) for file in files]


def int8_file(name: str, arch: Arch, net: torch.nn.Module, images: np.ndarray, *, keep_dead: bool = False) -> ModelFile:
    """The int8 file of `net` for counting: calibrated on `images` f32[N,H,W,3]; dead channels are left out unless
    `keep_dead`."""
    shape = (1, 3, arch.input_px, arch.input_px)
    graph = lower(trace_modules(net.eval(), shape) or export_program(net.eval(), shape), arch.name)
    graph = graph if keep_dead else without_dead_channels(graph)
    return model_file(Path(f"{name}.tflite"), tflite.to_bytes(ptq(graph, [images], _RECIPE).graph, metadata={}))


# ---- the nets -------------------------------------------------------------------------------------------------------


def random_nets(base: Arch, count: int, seed: int = 0) -> list[Arch]:
    """`base`, whose channels are exact, and others with random widths, kernels and blocks left out."""
    draw = random.Random(seed)
    nets = [base]
    while len(nets) < count:
        widths = {
            group.name: max(8, round(group.channels * draw.uniform(_NARROWEST, 1) / 8) * 8)
            for group in channel_groups(base)
        }
        net = with_widths(base, widths)
        if has_same_structure(base, net):
            nets.append(_with_fewer_blocks(net, draw))
    return nets


def _with_fewer_blocks(net: Arch, draw: random.Random) -> Arch:
    left_out = {row for row in droppable_blocks(net) if draw.random() < _DROPPED}
    rows = [block for row, block in enumerate(net.blocks) if row not in left_out]
    return replace(net, blocks=tuple(replace(block, kernel=draw.choice((3, block.kernel))) for block in rows))


def _random_file(net: Arch, number: int) -> ModelFile:
    _, module = build(net, load_weights(RANDOM, net, seed=number))
    noise = np.random.default_rng(number).standard_normal((2, net.input_px, net.input_px, 3), np.float32)
    # Of random channels some are dead, and without them the net would have other widths than its table says.
    return int8_file(f"{net.name}-{number}", net, module, noise, keep_dead=True)


# ---- costs ----------------------------------------------------------------------------------------------------------


def _is_emulated(device: str) -> bool:
    return find_device(device).address.startswith("emulated:")


def _settings(device: str) -> Settings:
    return Settings(runs=_COUNTED_RUNS) if _is_emulated(device) else Settings()


def _fresh(device: str, files: Sequence[ModelFile], progress: Progress) -> Run:
    run = bench(BenchRequest(tuple(files), device, _settings(device)), progress)
    save_run(run, _cache_path(device, files))
    return run


def _cached(device: str, unit: Unit, files: Sequence[ModelFile]) -> Run | None:
    """The run of these files on `device` in the cache; None if there is none, or if the first file costs something
    else today: another runtime, another board."""
    path = _cache_path(device, files)
    if not path.is_file():
        return None
    try:
        kept = load_run(path)
        then = _cost(kept, files[0], unit)
    except EdgemobileError:
        return None
    today = bench(BenchRequest((files[0],), device, _settings(device)))
    tolerance = 1e-3 if today.emulated else 0.05
    is_same = today.facts.runtimes.items() <= kept.facts.runtimes.items()
    return kept if is_same and abs(_cost(today, files[0], unit) / then - 1) < tolerance else None


def _cache_path(device: str, files: Sequence[ModelFile]) -> Path:
    content = "\n".join((device, *(file.sha256 for file in files)))
    return cache_folder("costs") / f"{hashlib.sha256(content.encode()).hexdigest()[:32]}.json"


def _cost(run: Run, file: ModelFile, unit: Unit) -> float:
    found = [case for case in run.cases if case.file == str(file.path)]
    if not found:
        reasons = "; ".join(refusal.reason for refusal in run.refused[:1])
        raise Unsupported(f"{run.device} does not run {file.name}: {reasons or 'it gave no result'}")
    return found[0].instructions_median["total"] if unit == "instructions" else _ms(run, found[0])


def _ms(run: Run, case: Case) -> float:
    if not run.emulated:
        return summarize(case.rounds_ns, case.rounds_per_process).median_ns / 1e6
    if case.estimate is None:
        raise Unsupported(f"{run.device} estimates no time: {'; '.join(run.notes) or 'llvm is not installed'}")
    return max(on_boards(case.estimate), key=lambda found: found.board.clock_mhz).ms
