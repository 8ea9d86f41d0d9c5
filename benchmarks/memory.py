"""Whether memory, threads or open files grow in one process: over many exports, or over an evaluation of many images.

    python benchmarks/memory.py exports --count 1000
    python benchmarks/memory.py images --count 50000
    python benchmarks/memory.py inferences --count 100000

Prints ten rows of samples; --plot FILE.png draws all. The exit code is 1 if memory grew by more than 5 % and 16 MiB, or
the threads or open files, between the second tenth and the last: in the first, imports, caches and pools fill.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

import edgemobile
from edgemobile.devices.runtimes.sessions import open_session
from edgemobile.util.progress import Report

__all__ = ["Sample", "grown", "sample"]

_ROWS = 10
_GROWN_MIB, _GROWN_SHARE = 16.0, 0.05


@dataclass(frozen=True)
class Sample:
    """This process after `done` steps: its resident memory, its threads and its open files."""

    done: int
    rss_mib: float
    threads: int
    files: int


def sample(done: int) -> Sample:
    """Of this process, now. Needs /proc."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    facts = {line.partition(":")[0]: line.split()[1] for line in status.splitlines() if len(line.split()) > 1}
    files = len(list(Path("/proc/self/fd").iterdir()))
    return Sample(done, int(facts["VmRSS"]) / 1024, int(facts["Threads"]), files)


def grown(samples: list[Sample]) -> list[str]:
    """What grew after the first tenth, in words. Memory by the means of the second tenth and of the last."""
    tenth = max(1, len(samples) // 10)
    early, late = samples[tenth : 2 * tenth], samples[-tenth:]
    before, after = (float(np.mean([one.rss_mib for one in part])) for part in (early, late))
    found = []
    if after - before > max(_GROWN_MIB, _GROWN_SHARE * before):
        found.append(f"memory grew from {before:.0f} to {after:.0f} MiB")
    for name in ("threads", "files"):
        most, least = (max(getattr(one, name) for one in part) for part in (late, early))
        if most > least:
            found.append(f"{name} grew from {least} to {most}")
    return found


# ---- what is repeated -----------------------------------------------------------------------------------------------


def _exports(count: int, folder: Path) -> Iterator[Sample]:
    """A narrow v3-small in float and int8 and both formats, checked and timed each time."""
    for done in range(1, count + 1):
        edgemobile.export(
            *("v3-small",), int8=True, weights="random", width=0.35, res=32, classes=10, check_images=4, seed=done,
            out=folder / "model", overwrite=True,
        )  # fmt: skip
        yield sample(done)


class _Watched:
    """A Progress that takes a sample at every report."""

    def __init__(self) -> None:
        self.samples: list[Sample] = []

    @contextmanager
    def step(self, title: str, total: int | None = None) -> Iterator[Report]:
        yield lambda done, total=None: self.samples.append(sample(done))


def _images(count: int, folder: Path) -> Iterator[Sample]:
    """One evaluation of `count` images in a zip, in one process."""
    made = edgemobile.export(
        *("v3-small",), weights="random", width=0.35, res=32, classes=10, to="onnx", check_images=4,
        out=folder / "model",
    )  # fmt: skip
    watched, photos = _Watched(), _photos(folder / "photos.zip", count)
    edgemobile.evaluate(made.out, photos, preprocess="unit", workers=1, progress=watched)
    yield from watched.samples


def _photos(path: Path, count: int) -> Path:
    """A zip of `count` different images in ten folders."""
    rng = np.random.default_rng(0)
    with zipfile.ZipFile(path, "w") as archive:
        for index in range(count):
            pixels = rng.integers(0, 256, (16, 16, 3)).astype(np.uint8)
            buffer = BytesIO()
            Image.fromarray(pixels).save(buffer, "PNG")
            archive.writestr(f"test/{index % 10}/{index}.png", buffer.getvalue())
    return path


def _inferences(count: int, folder: Path) -> Iterator[Sample]:
    """`count` inferences of an int8 file in each runtime, in this process."""
    edgemobile.export(
        *("v3-small",), int8=True, weights="random", width=0.35, res=32, classes=10, check_images=4,
        out=folder / "model",
    )  # fmt: skip
    sessions = [open_session((folder / "model" / f"v3-small-int8.{end}").read_bytes()) for end in ("onnx", "tflite")]
    images = np.zeros((1, 32, 32, 3), np.float32)
    every = max(1, count // 100)
    for done in range(1, count + 1):
        for session in sessions:
            session.run(images)
        if done % every == 0:
            yield sample(done)


_KINDS: dict[str, Callable[[int, Path], Iterator[Sample]]] = {
    "exports": _exports,
    "images": _images,
    "inferences": _inferences,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=_KINDS)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw memory over time; needs matplotlib")
    given = parser.parse_args()
    if given.count < 20:
        parser.error("--count must be at least 20: two tenths are compared")
    with tempfile.TemporaryDirectory() as folder:
        samples = []
        for one in _KINDS[given.kind](given.count, Path(folder)):
            samples.append(one)
            if len(samples) % 10 == 0:
                print(f"{one.done} of {given.count}: {one.rss_mib:.0f} MiB", file=sys.stderr, flush=True)
    _print(given.kind, samples)
    if given.plot is not None:
        _plot(given.kind, samples, given.plot)
    found = grown(samples)
    print(*(found or ["nothing grew"]), sep="\n")
    return int(bool(found))


def _print(kind: str, samples: list[Sample]) -> None:
    print(f"{kind:>10} {'MiB':>8} {'threads':>8} {'files':>6}")
    tenth = max(1, len(samples) // _ROWS)
    for one in samples[tenth - 1 :: tenth]:
        print(f"{one.done:>10} {one.rss_mib:>8.1f} {one.threads:>8} {one.files:>6}")


def _plot(kind: str, samples: list[Sample], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3), layout="constrained")
    axes = figure.subplots()
    axes.plot([one.done for one in samples], [one.rss_mib for one in samples])
    axes.set(xlabel=kind, ylabel="resident memory, MiB")
    axes.set_ylim(0, 1.2 * max(one.rss_mib for one in samples))
    figure.savefig(path)


if __name__ == "__main__":
    sys.exit(main())
