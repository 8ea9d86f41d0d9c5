"""Estimated times against published ones: ncnn's kernels on the emulated cores, and ncnn's table of measured boards.

    git clone --depth 1 https://github.com/Tencent/ncnn
    pip download ncnn --no-deps --only-binary=:all: --python-version 3.11 --platform manylinux_2_28_aarch64
    python benchmarks/estimates.py --models ncnn/benchmark/models --wheel ncnn*.whl [--keep estimates.json] [--fit]

It needs the emulated cores with LiteRT (for numpy): `edgemobile devices setup emulated:cortex-a53`, a72 and a76. COSTS
of edgemobile/latency/estimates.py are fitted to nets that are not MobileNets, which `--fit` repeats; docs/estimates.md
says what was chosen with the MobileNets in view. The tables go to that page, the errors to KNOWN_ERRORS.
"""

from __future__ import annotations

import argparse
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
from emulated_worker import NCNN, count_inference

from edgemobile.devices.host.estimating import Estimate
from edgemobile.latency.estimates import COSTS, Board, Costs, on_boards
from edgemobile.util.strict_json import decode, encode, parse, to_json_text

# Average ms of one inference on one thread, as ncnn's benchmark/README.md has them (commit a4d2ea1): benchncnn with
# num_threads 1, batch 1, 224 x 224 (SqueezeNet 227 x 227), weights of zero. The version of ncnn is not stated.
BOARDS = (
    Board("Raspberry Pi Zero 2 W", "cortex-a53", 1000),
    Board("Raspberry Pi 3B+", "cortex-a53", 1400),
    Board("Raspberry Pi 4", "cortex-a72", 1800),
    Board("Raspberry Pi 5", "cortex-a76", 2400),
)
CHECKED = {
    "mobilenet": (393.94, 205.65, 124.32, 20.30),
    "mobilenet_int8": (286.75, 181.91, 84.82, 14.44),
    "mobilenet_v2": (274.23, 158.80, 93.48, 16.38),
    "mobilenet_v3": (234.20, 127.23, 72.81, 11.80),
}
FITTED = {
    "squeezenet": (240.77, 125.58, 73.96, 11.87),
    "squeezenet_int8": (212.94, 135.98, 69.42, 11.82),
    "shufflenet_v2": (129.18, 74.44, 42.12, 7.14),
    "mnasnet": (265.93, 148.42, 83.98, 12.99),
    "proxylessnasnet": (330.13, 200.42, 98.78, 15.74),
    "efficientnet_b0": (519.00, 241.27, 129.73, 24.20),
    "resnet18": (654.69, 379.57, 191.10, 29.68),
    "resnet18_int8": (479.40, 312.68, 158.50, 36.42),
}
PUBLISHED = CHECKED | FITTED
# Maximum bytes per ns of the memory bus on the boards with a core: 32 bits of LPDDR2 at 900 MHz, at twice
# its clock, of LPDDR4-3200 and of LPDDR4X-4267.
BUS = {"cortex-a53": 7.2, "cortex-a72": 12.8, "cortex-a76": 17.1}
# Two values this close to each other have no correct order.
NEAR = 0.10


@dataclass(frozen=True)
class Point:
    """A published time and its estimate."""

    net: str
    board: Board
    measured_ms: float
    estimate: Estimate

    @property
    def estimated_ms(self) -> float:
        return on_boards(self.estimate, self.board.clock_mhz)[0].ms

    @property
    def error(self) -> float:
        """Relative to the measured time; below 0 if the estimate is too fast."""
        return self.estimated_ms / self.measured_ms - 1


def estimate(cpu: str, param: Path, site: Path) -> Estimate:
    """One inference of an ncnn net on an emulated core."""
    size = "227" if "squeezenet" in param.stem else "224"
    return count_inference(cpu, NCNN, [str(param.resolve()), size], site).estimate


def estimates(models: Path, wheel: Path, keep: Path) -> dict[str, Estimate]:
    """ "mobilenet cortex-a72" -> its estimate. Results in `keep` are not computed again."""
    known = {} if not keep.exists() else parse(keep.read_bytes(), str(keep), 2**24)
    found = {name: decode(Estimate, value, name) for name, value in known.items()}
    with tempfile.TemporaryDirectory() as site:
        zipfile.ZipFile(wheel).extractall(site)
        for net in PUBLISHED:
            for cpu in COSTS:
                if (name := f"{net} {cpu}") not in found:
                    found[name] = estimate(cpu, models / f"{net}.param", Path(site))
                    keep.write_text(to_json_text(encode(found)), encoding="utf-8")
                    print(f"{name}: {found[name].compute_cycles / 1e6:.1f} M cycles", flush=True)
    return found


def points(found: dict[str, Estimate], nets: dict[str, tuple[float, ...]]) -> list[Point]:
    rows = [(net, *pair) for net, figures in nets.items() for pair in zip(BOARDS, figures, strict=True)]
    return [Point(net, board, ms, found[f"{net} {board.core}"]) for net, board, ms in rows]


# ---- fitting --------------------------------------------------------------------------------------------------------


def fit(found: Sequence[Point]) -> Costs:
    """Costs of a core with the least squared relative errors: a factor of 1 or more, memory no faster than its bus, the
    cycles of a line 0 or more. The latencies are not fitted: they apply to only a hundredth of the lines.
    """
    cpu = found[0].board.core
    costs = COSTS[cpu]
    rows, wanted = [], []
    for point in found:
        clock, caches = point.board.clock_mhz / 1000, point.estimate.caches
        lines = [a.misses - b.misses for a, b in pairwise(caches)]
        least = Costs(1, (0,) * len(lines), costs.latency_cycles, BUS[cpu], costs.dram_ns)
        measured = point.measured_ms * 1e6 * clock
        rows.append(np.array([point.estimate.compute_cycles, *lines, caches[-1].misses * 64 * clock]) / measured)
        fixed = point.estimate.compute_cycles + least.memory_cycles(point.estimate, point.board.clock_mhz)
        wanted.append(1 - fixed / measured)
    more, *line_cycles, more_ns = _nonnegative(np.array(rows), np.array(wanted))
    return Costs(1 + more, tuple(line_cycles), costs.latency_cycles, 1 / (1 / BUS[cpu] + more_ns), costs.dram_ns)


def _nonnegative(rows: np.ndarray, wanted: np.ndarray) -> list[float]:
    """The least squares solution with no value below 0: the best of all subsets of columns that allows it."""
    best = (np.inf, [0.0] * rows.shape[1])
    for count in range(1, rows.shape[1] + 1):
        for columns in map(list, combinations(range(rows.shape[1]), count)):
            solution = np.linalg.lstsq(rows[:, columns], wanted, rcond=None)[0]
            left = float(np.sum((rows[:, columns] @ solution - wanted) ** 2))
            if min(solution) >= 0 and left < best[0]:
                values = [0.0] * rows.shape[1]
                for column, value in zip(columns, solution, strict=True):
                    values[column] = float(value)
                best = (left, values)
    return best[1]


# ---- what is printed ------------------------------------------------------------------------------------------------


def ranked(found: Sequence[Point]) -> tuple[int, int]:
    """(pairs in the right order, pairs) of one board, for pairs whose published times are not close to each other."""
    pairs = [
        (a, b)
        for a, b in combinations(found, 2)
        if a.board == b.board and abs(np.log(a.measured_ms / b.measured_ms)) > np.log(1 + NEAR)
    ]
    return sum((a.estimated_ms > b.estimated_ms) == (a.measured_ms > b.measured_ms) for a, b in pairs), len(pairs)


def table(found: Sequence[Point]) -> Iterator[str]:
    yield "| net | board | published | estimated | compute + memory, M cycles | error |"
    yield "|---|---|---:|---:|---:|---:|"
    for point in found:
        one = on_boards(point.estimate, point.board.clock_mhz)[0]
        parts = f"{one.compute_cycles / 1e6:.1f} + {one.memory_cycles / 1e6:.1f}"
        times = f"{point.measured_ms:.1f} ms | {point.estimated_ms:.1f} ms"
        yield f"| {point.net} | {point.board.words} | {times} | {parts} | {point.error:+.0%} |"


def summary(found: Sequence[Point], what: str) -> Iterator[str]:
    for board in BOARDS:
        here = [point for point in found if point.board == board]
        errors = [abs(point.error) for point in here]
        right, pairs = ranked(here)
        yield (
            f"| {board.words} | {what} | {len(here)} | {np.mean(errors):.1%} | {max(errors):.1%} | {right} of {pairs} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, required=True, help="ncnn's benchmark/models")
    parser.add_argument("--wheel", type=Path, required=True, help="ncnn's wheel for aarch64 and the emulated Python")
    parser.add_argument("--keep", type=Path, default=Path("estimates.json"), help="file for the estimates")
    parser.add_argument("--fit", action="store_true", help="fit COSTS again and print them")
    given = parser.parse_args()
    found = estimates(given.models, given.wheel, given.keep)
    if given.fit:
        for cpu in list(COSTS):
            COSTS[cpu] = fit([point for point in points(found, FITTED) if point.board.core == cpu])
            print(f"{cpu}: {COSTS[cpu]}")
    checked, fitted = points(found, CHECKED), points(found, FITTED)
    print("\n".join(table([*checked, *fitted])))
    print("\n| board | nets | figures | mean error | largest error | pairs in the right order |")
    print("|---|---|---:|---:|---:|---:|")
    print("\n".join([*summary(checked, "MobileNets"), *summary(fitted, "others, which the costs are fitted to")]))


if __name__ == "__main__":
    main()
