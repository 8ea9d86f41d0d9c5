"""A short fuzz of every reader, and every input that broke one before (`python tests/fuzz/run.py` finds more)."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from mutations import mutate
from targets import TARGETS, check

_CRASHES = sorted((Path(__file__).parent / "crashes").glob("*"))
_RUNS, _SLOW_RUNS = 150, 30


def _target(name: str):
    target = TARGETS[name]
    for package in target.needs:
        pytest.importorskip(package)
    return target


@pytest.mark.parametrize("name", TARGETS)
def test_seeds_are_taken(name: str, tmp_path: Path) -> None:
    """Else mutants of them would only knock at the door."""
    target = _target(name)
    assert all(check(target, seed, tmp_path) for seed in target.seeds())


@pytest.mark.parametrize("name", TARGETS)
def test_damage_is_an_answer_or_an_error_of_ours(name: str, tmp_path: Path) -> None:
    target, rng = _target(name), random.Random(1)
    seeds = target.seeds()
    for _ in range(_SLOW_RUNS if target.slow else _RUNS):
        check(target, mutate(rng.choice(seeds), rng, text=target.text), tmp_path)


@pytest.mark.parametrize("path", _CRASHES, ids=lambda path: path.name)
def test_what_broke_a_reader_once(path: Path, tmp_path: Path) -> None:
    check(_target(path.name.rpartition("-")[0]), path.read_bytes(), tmp_path)
