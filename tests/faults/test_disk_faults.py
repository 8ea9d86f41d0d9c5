"""A short form of the fault matrix (`python tests/faults/run.py` is the whole), and of its own checks."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import disk
import pytest

from edgemobile.util.writing import partial_file, write_whole


@pytest.mark.skipif(sys.platform != "linux" or shutil.which("cc") is None, reason="needs Linux and cc")
def test_every_disk_fault_leaves_the_old_or_the_new(repo_root: Path) -> None:
    """Of a file and of a folder: all faults at the first, the last and some calls between."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    argv = [sys.executable, repo_root / "tests/faults/run.py", "devices add", "sample-data", "--every", "200"]
    done = subprocess.run(argv, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("| `") == 2


_SYNCED = "create\t/o/.a\t\nwrite\t/o/.a\t\nfsync\t/o/.a\t\nrename\t/o/.a\t/o/a\nfsync\t/o\t\n"


def test_a_power_cut_is_judged_by_the_order_of_calls() -> None:
    assert disk.lost_by_a_power_cut(_SYNCED, {"/o/a"}) == []
    late = disk.lost_by_a_power_cut(_SYNCED.replace("fsync\t/o/.a\t\n", ""), {"/o/a"})
    assert late == ["/o/.a was renamed to /o/a before it was synced"]
    nameless = disk.lost_by_a_power_cut(_SYNCED.replace("fsync\t/o\t\n", ""), {"/o/a"})
    assert nameless == ["the new name /o/a was not synced"]


# ---- leftovers ------------------------------------------------------------------------------------------------------


def test_the_next_writer_removes_what_a_killed_one_left(tmp_path: Path) -> None:
    left, others = tmp_path / ".a.0123abcd.partial", [".a.partial", ".b.0123abcd.partial", ".a.mine.partial"]
    for name in (left.name, *others):
        (tmp_path / name).write_text("half")
    write_whole(tmp_path / "a", "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["a", *others])


def test_two_writers_of_one_file_leave_each_other_alone(tmp_path: Path) -> None:
    target = tmp_path / "a"
    with partial_file(target) as partial:
        partial.write_text("first")
        write_whole(target, "second")
        assert partial.read_text() == "first"
        os.replace(partial, target)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a", "first")]


def test_many_writers_of_one_file(tmp_path: Path) -> None:
    """In processes of their own, at once: the file is always whole, and nothing is left."""
    program = (
        "import sys; from pathlib import Path; from edgemobile.util.writing import write_whole\n"
        "for _ in range(50): write_whole(Path(sys.argv[1]), sys.argv[2] * 10000)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    path = tmp_path / "a"
    writers = [subprocess.Popen([sys.executable, "-c", program, path, letter], env=environment) for letter in "xyz"]
    while any(writer.poll() is None for writer in writers):
        if path.exists():
            text = path.read_text()
            assert len(text) == 10000
            assert len(set(text)) == 1
    assert [writer.returncode for writer in writers] == [0, 0, 0]
    assert [one.name for one in tmp_path.iterdir()] == ["a"]
