"""Runs part of a job in a separate process, and kills it if this process ends, the host asks for it, or it hangs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from edgemobile import errors
from edgemobile.devices.runtimes.job import JobFile
from edgemobile.errors import EdgemobileError

__all__ = ["PARENT_VARIABLE", "in_a_process"]

# The environment variable of the new process with the process id of this one.
PARENT_VARIABLE = "EDGEMOBILE_WORKER"
# Polling more often would disturb the measurement.
_POLL_S = 1.0
# A process that opens no file and finishes no round for this long, which it would report, counts as hanging.
_SILENT_S = 600.0


class _Job(Protocol):
    folder: Path

    def check(self) -> None: ...


def in_a_process(job: _Job, files: Sequence[JobFile], *words: str) -> dict[str, Any]:
    """Start the worker's module again with the arguments `words`, and return its answer, an object as JSON.

    `files` are the files that this part of the job runs, for errors. Raises the error that the process reports; what
    job.check raises, after killing the process; and EdgemobileError if it dies or makes no progress for ten minutes.
    """
    site = ["-S"] if sys.flags.no_site else []
    argv = [sys.executable, *site, "-m", "edgemobile.devices.board.worker", *words]
    environment = {**os.environ, PARENT_VARIABLE: str(os.getpid())}
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        stdout, stderr = _wait(job, files, process)
    except BaseException:
        process.kill()
        process.communicate()
        raise
    job.check()
    try:
        answer = json.loads(stdout.splitlines()[-1])
    except (IndexError, ValueError):
        raise EdgemobileError(_reason_of_death(process.returncode, stderr, files)) from None
    if process.returncode:
        raise getattr(errors, answer["kind"], EdgemobileError)(answer["reason"])
    return answer


def _wait(job: _Job, files: Sequence[JobFile], process: subprocess.Popen[str]) -> tuple[str, str]:
    """Standard output and standard error of `process`, once it has ended."""
    last_progress, size = time.monotonic(), -1
    while True:
        try:
            return process.communicate(timeout=_POLL_S)
        except subprocess.TimeoutExpired:
            job.check()
        new_size = _size(job.folder / "progress.jsonl")
        if new_size != size:
            last_progress, size = time.monotonic(), new_size
        elif time.monotonic() - last_progress > _SILENT_S:
            raise EdgemobileError(
                f"{_names(files)}: no inference ended within {_SILENT_S:.0f} s. The model contains an endless loop, or "
                "is far too large for this board"
            )


def _reason_of_death(code: int, stderr: str, files: Sequence[JobFile]) -> str:
    if code < 0:
        return (
            f"{_names(files)} crashed the runtime (signal {-code}): a file is damaged, or needs more memory than the "
            "board has. Measure the files one at a time to find it"
        )
    last = (stderr.strip().splitlines() or [f"it ended with code {code}"])[-1]
    return f"a process of the measurement died: {last[:300]}"


def _names(files: Sequence[JobFile]) -> str:
    return ", ".join(row["file"] for row in files[:3]) + (", ..." if files[3:] else "")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
