"""Fuzz readers for long: `python tests/fuzz/run.py tflite-graph run --runs 100000`.

What a reader raises but EdgemobileError, and what takes longer than ten seconds, is written to tests/fuzz/crashes/ as
TARGET-SHA, where the test suite finds it from then on. With --atheris, coverage guides the mutations of one target.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path

_HERE = Path(__file__).parent
sys.path[:0] = [str(_HERE), str(_HERE.parent / "support")]

from mutations import mutate  # noqa: E402
from targets import TARGETS, Target, check  # noqa: E402

_SLOW_S = 10


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"default: all of {', '.join(TARGETS)}")
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--atheris", action="store_true", help="guide by coverage; needs `pip install atheris`")
    given = parser.parse_args()
    if unknown := set(given.targets) - TARGETS.keys():
        parser.error(f"no target {', '.join(unknown)}. Targets: {', '.join(TARGETS)}")
    warnings.simplefilter("ignore")  # Pillow has many words about a damaged TIFF
    names = given.targets or list(TARGETS)
    if given.atheris:
        _guided(names[0], given.runs)
    return sum(_fuzz(name, TARGETS[name], given.runs, given.seed) for name in names) and 1


def _fuzz(name: str, target: Target, runs: int, seed: int) -> int:
    """How many inputs broke the reader."""
    rng, seeds, broken, taken, started = random.Random(seed), target.seeds(), 0, 0, time.monotonic()
    pool = list(seeds)
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(runs):
            data = mutate(rng.choice(pool), rng, text=target.text)
            before = time.monotonic()
            try:
                if check(target, data, Path(folder)):
                    taken += 1
                    # What is still taken is a way further in.
                    pool = [*seeds, *pool[len(seeds) :][-200:], data]
            except Exception:
                broken += 1
                _keep(name, data, traceback.format_exc())
            if time.monotonic() - before > _SLOW_S:
                broken += 1
                _keep(name, data, f"{time.monotonic() - before:.1f} s")
    print(f"{name}: {runs} runs, {taken} taken, {broken} broken, {time.monotonic() - started:.0f} s", flush=True)
    return broken


def _keep(name: str, data: bytes, words: str) -> None:
    path = _HERE / "crashes" / f"{name}-{hashlib.sha256(data).hexdigest()[:12]}"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    print(f"{path}: {words.splitlines()[-1]}", flush=True)


def _guided(name: str, runs: int) -> None:
    import atheris  # type: ignore[import-not-found]

    target = TARGETS[name]
    folder = Path(tempfile.mkdtemp())
    corpus = folder / "corpus"
    corpus.mkdir()
    for index, seed in enumerate(target.seeds()):
        (corpus / str(index)).write_bytes(seed)
    atheris.instrument_all()
    atheris.Setup([sys.argv[0], f"-runs={runs}", str(corpus)], lambda data: check(target, bytes(data), folder))
    atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main())
