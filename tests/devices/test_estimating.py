"""Cycles of blocks by LLVM's models. Skips where llvm is not installed: `apt-get install llvm-19`."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgemobile.devices.host import llvm_mca
from edgemobile.devices.host.counting import Block, CacheMisses, Execution
from edgemobile.devices.host.estimating import Estimate, estimate_executions
from edgemobile.devices.host.llvm_mca import Llvm, find_llvm, schedule
from edgemobile.devices.host.processes import MissingTool

# fmla v0.4s, v1.4s, v2.4s, and the same into v3: one that waits for itself, and two that do not wait for each other.
_CHAIN = Block(0, ("4e22cc20",))
_PAIR = Block(4, ("4e22cc20", "4e22cc23"))
_SDOT = Block(8, ("4e829420",))
_CACHES = (CacheMisses(9, 1), CacheMisses(2, 0))
_NO_INSTRUCTION = Block(12, ("4e22cc20", "ffffffff"))


@pytest.fixture(scope="module")
def llvm() -> Llvm:
    try:
        return find_llvm()
    except MissingTool as error:
        pytest.skip(str(error))


def test_a_chain_takes_its_latency_and_two_chains_take_no_longer(llvm: Llvm) -> None:
    """A multiply-add that waits for itself cannot take less than a forwarded accumulator, nor more than its latency."""
    found = schedule([_CHAIN, _PAIR], "cortex-a72", llvm)
    assert 3 <= found[_CHAIN] <= 8
    assert found[_PAIR] == pytest.approx(found[_CHAIN], rel=0.1)


def test_each_core_has_a_model_of_its_own(llvm: Llvm) -> None:
    found = {cpu: schedule([_PAIR], cpu, llvm)[_PAIR] for cpu in llvm_mca.SCHEDULING_MODELS}
    assert found["cortex-a76"] < found["cortex-a72"]
    assert len(set(found.values())) == 3
    assert schedule([_SDOT], "cortex-a76", llvm)[_SDOT] < 5


def test_a_word_that_is_no_instruction_costs_little(llvm: Llvm) -> None:
    found = schedule([_CHAIN, _NO_INSTRUCTION, _PAIR], "cortex-a72", llvm)
    assert found[_NO_INSTRUCTION] == pytest.approx(found[_CHAIN], rel=0.1)
    assert list(found) == [_CHAIN, _NO_INSTRUCTION, _PAIR]


def test_cycles_are_counts_times_cycles_of_a_block(llvm: Llvm) -> None:
    cycles = schedule([_CHAIN, _PAIR], "cortex-a72", llvm)
    (found,) = estimate_executions([Execution({_CHAIN: 1000, _PAIR: 500}, _CACHES)], "cortex-a72", llvm)
    assert found.compute_cycles == pytest.approx(1000 * cycles[_CHAIN] + 500 * cycles[_PAIR])
    assert (found.covered, found.caches, found.llvm) == (1.0, _CACHES, llvm.version)


def test_what_hardly_runs_is_not_scheduled_but_counted(llvm: Llvm) -> None:
    runs = {_CHAIN: 1_000_000, **{Block(index, ("d503201f",)): 1 for index in range(100, 200)}}
    (found,) = estimate_executions([Execution(runs, _CACHES)], "cortex-a72", llvm)
    assert found.covered == pytest.approx(1 / 1.0001)
    assert found.compute_cycles == pytest.approx(schedule([_CHAIN], "cortex-a72", llvm)[_CHAIN] * 1_000_100)


def test_llvm_that_is_missing_or_too_old_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    find_llvm.cache_clear()
    try:
        with pytest.raises(MissingTool, match=r"llvm-mca not found.* apt-get install .* llvm-19"):
            find_llvm()
        for name in ("llvm-mc", "llvm-mca"):
            (tmp_path / name).write_text("#!/bin/sh\necho Debian LLVM version 14.0.6\n")
            (tmp_path / name).chmod(0o755)
        with pytest.raises(MissingTool, match=r"llvm 14.0.6 is too old: estimated cycles need llvm 19 or later"):
            find_llvm()
    finally:
        find_llvm.cache_clear()


def test_an_estimate_checks_itself() -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        Estimate("cortex-a72", 1.0, _CACHES, 1.5, "cortex-a72", "19")
    with pytest.raises(ValueError, match="one of cortex-a53, cortex-a72, cortex-a76"):
        Estimate("cortex-m4", 1.0, _CACHES, 1.0, "cortex-a72", "19")
    with pytest.raises(ValueError, match="each of its caches"):
        Estimate("cortex-a76", 1.0, _CACHES, 1.0, "cortex-a72", "19")
    with pytest.raises(ValueError, match="found 2 of 1"):
        CacheMisses(1, 2)
