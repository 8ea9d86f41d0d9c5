"""The command as a process: how it is started, and what becomes of it when nobody can take its output."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

_COMMAND = [sys.executable, "-m", "edgemobile"]


def test_the_package_runs_as_a_module() -> None:
    done = subprocess.run([*_COMMAND, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("edgemobile, version ")
    wrong = subprocess.run([*_COMMAND, "exprot"], capture_output=True, text=True, check=False)
    assert (wrong.returncode, wrong.stderr) == (
        2,
        "error: No such command 'exprot'. Did you mean 'export'? See `edgemobile --help`\n",
    )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("words", [("models",), ("models", "--json")])
def test_a_full_disk_behind_the_output_is_one_line(words: tuple[str, ...]) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([*_COMMAND, *words], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, "error: cannot write the output: No space left on device\n")


def test_a_reader_that_goes_away_gets_no_word_and_no_verdict() -> None:
    with subprocess.Popen([*_COMMAND, "models", "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        running.stdout.close()
        assert running.stderr.read() == b""
    assert running.returncode == 141


def test_a_crash_does_not_exit_as_a_file_that_fell_short() -> None:
    """Python's own code for a traceback is 1."""
    code = (
        "import edgemobile.cli as cli\n"
        "def crash(*args, **options): raise TypeError('oh')\n"
        "cli.cli.main = crash\n"
        "cli.main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 70
    assert "TypeError: oh" in done.stderr
    assert "this is a bug in edgemobile" in done.stderr
