"""Run every command once for every fault at every call that changes its files: `python tests/faults/run.py`.

A fault is a full disk, an error of input or output, a disk that turns read-only, SIGTERM or SIGKILL, at the n-th
create, write, fsync, rename or remove below the folder that the command writes to. After each:

    every output is the old one or the new one, whole; the exit code and the error say what happened
    nothing else is left, but after SIGKILL, or where nothing can be removed
    the next run of the command succeeds and leaves what a run without a fault leaves

The order of these calls in a run without a fault shows what a power cut could spoil. Prints a table, and what broke;
the exit code is 1 then. --every 4 takes only each fourth of many calls of a kind, and the first and the last.
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

_HERE = Path(__file__).parent
sys.path.insert(0, str(_HERE))

import disk  # noqa: E402
from commands import CASES, Case, make_inputs  # noqa: E402

_LIMIT_S = 300
_UNSTABLE, _BUG, _TERMINATED = 5, 70, 143


@dataclass
class Ran:
    """One run of a command in a process of its own: its exit code, negative for a signal; what it said and did."""

    code: int
    said: str
    trace: str

    @property
    def counts(self) -> dict[str, int]:
        calls = [line.split("\t")[0] for line in self.trace.splitlines()]
        return {call: calls.count(call) for call in disk.CALLS}


@dataclass
class Row:
    """The row of a command in the table."""

    name: str
    counts: dict[str, int]
    runs: dict[str, int] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commands", nargs="*", metavar="COMMAND", help=f"default: all of {', '.join(CASES)}")
    parser.add_argument("--every", type=int, default=1, help="take each n-th call of a kind")
    given = parser.parse_args()
    if unknown := set(given.commands) - CASES.keys():
        parser.error(f"no command {', '.join(unknown)}. Commands: {', '.join(CASES)}")
    disk.load_and_restart()
    os.environ["OMP_NUM_THREADS"] = "1"
    rows = []
    with tempfile.TemporaryDirectory(prefix="edgemobile-faults-") as made:
        folder = Path(os.path.realpath(made))
        inputs, logs, work = folder / "inputs", folder / "logs", folder / "work"
        inputs.mkdir()
        logs.mkdir()
        os.environ.update({"XDG_CACHE_HOME": str(folder / "cache"), "TMPDIR": str(logs)})
        tempfile.tempdir = None
        names = given.commands or list(CASES)
        if any(CASES[name].reads_inputs for name in names):
            make_inputs(inputs, _run_here)
        for name in names:
            rows.append(_matrix(name, CASES[name], inputs, work, logs, given.every))
            print(*(f"{name}: {words}" for words in rows[-1].broken), sep="\n", end="\n" if rows[-1].broken else "")
    print(_table(rows))
    return int(any(row.broken for row in rows))


def _run_here(words: str) -> None:
    """Here, not in a process of its own: what it imports is imported for all runs after it."""
    code = _call(words.split())
    if code not in (0, _UNSTABLE):
        sys.exit(f"edgemobile {words} ended with {code}")


def _call(argv: list[str]) -> int:
    from edgemobile import cli

    sys.argv = ["edgemobile", *argv]
    try:
        cli.main()
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


# ---- the matrix of one command --------------------------------------------------------------------------------------


def _matrix(name: str, case: Case, inputs: Path, work: Path, logs: Path, every: int) -> Row:
    started = time.monotonic()
    _prepare(case, work, inputs)
    first = _run(case, inputs, work, logs)
    row = Row(name, first.counts)
    expected = _listing(work)
    if first.code not in case.done:
        row.broken.append(f"without a fault: exit code {first.code}: {first.said}")
        return row
    seen = {str(work / output) for output in case.outputs}
    if not case.stdout:
        row.broken += [f"power cut: {words}" for words in disk.lost_by_a_power_cut(first.trace, seen)]
    row.runs["power cut"] = 1
    for point in _points(first.counts, every):
        _prepare(case, work, inputs)
        before, files_before = _contents(case, work), _listing(work)
        ran = _run(case, inputs, work, logs, point)
        row.runs[point.fault.name] = row.runs.get(point.fault.name, 0) + 1
        wrong = [*_wrong(case, work, before, expected | files_before, ran, point)]
        after = _run(case, inputs, work, logs)
        if after.code not in (*case.done, *case.again):
            wrong.append(f"the next run ended with {after.code}: {after.said}")
        elif left := _listing(work) ^ expected:
            wrong.append(f"after the next run, these differ: {sorted(left)[:5]}")
        row.broken += [f"{point}: {words}" for words in wrong]
    print(f"{name}: {sum(row.runs.values())} runs in {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    return row


def _points(counts: dict[str, int], every: int) -> Iterator[disk.Point]:
    for call, count in counts.items():
        for index in sorted({*range(1, count + 1, every), *([count] if count else [])}):
            yield from (disk.Point(call, index, fault) for fault in disk.FAULTS if call in fault.calls)


def _prepare(case: Case, work: Path, inputs: Path) -> None:
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    case.before(work, inputs)


def _run(case: Case, inputs: Path, work: Path, logs: Path, point: disk.Point | None = None) -> Ran:
    """Run the command in a child of this process, which has everything imported."""
    said, trace = logs / "said", logs / "trace"
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        os._exit(_child(case, inputs, work, said, trace, point))
    code = _ended(child)
    return Ran(code, said.read_text(errors="replace").strip(), trace.read_text())


def _child(case: Case, inputs: Path, work: Path, said: Path, trace: Path, point: disk.Point | None) -> int:
    code = 1
    try:
        os.chdir(work)
        os.environ.update(case.env)
        errors = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        output = os.open(case.stdout, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) if case.stdout else errors
        traced = os.open(trace, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(errors, 2)
        sys.stdout, sys.stderr = (io.TextIOWrapper(io.FileIO(fd, "wb", closefd=False)) for fd in (1, 2))
        disk.watch(work, traced, point)
        code = _call(case.argv(inputs))
        sys.stdout.flush()
    except BaseException:
        traceback.print_exc()
    finally:
        disk.watch(Path("/nowhere"))
        sys.stderr.flush()
    return code


def _ended(child: int) -> int:
    """The exit code of a process, killed after five minutes."""
    until = time.monotonic() + _LIMIT_S
    while time.monotonic() < until:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return -signal.SIGALRM


# ---- what has to hold -----------------------------------------------------------------------------------------------


def _wrong(
    case: Case, work: Path, before: dict[str, object], allowed: set[str], ran: Ran, point: disk.Point
) -> Iterator[str]:
    """What does not hold. `allowed` are the paths of the earlier outputs and of those of a run without a fault."""
    fault = point.fault
    if "Traceback" in ran.said or ran.code == _BUG:
        yield f"traceback: {ran.said.splitlines()[-1]}"
    if fault.signal == signal.SIGKILL and ran.code != -signal.SIGKILL:
        yield f"exit code {ran.code} after SIGKILL"
    # -SIGTERM: where the command is done, and only its output is flushed.
    if fault.signal == signal.SIGTERM and ran.code not in (_TERMINATED, -signal.SIGTERM):
        yield f"exit code {ran.code} after SIGTERM: {ran.said}"
    if fault.errno and ran.code not in case.done and fault.words not in ran.said:
        yield f"exit code {ran.code}, and the error does not tell of the fault: {ran.said}"
    if ran.code < 0 and not fault.signal:
        yield f"it ended by signal {-ran.code}"
    # What the shell opened was cut by the shell: the exit code has to tell.
    if not case.stdout or ran.code in case.done:
        yield from _torn(case, work, before, done=ran.code in case.done)
    if not (fault.signal == signal.SIGKILL or fault.name == "EROFS" or point.call == "remove"):
        left = _listing(work) - allowed
        if left:
            yield f"left behind: {sorted(left)[:5]}"


def _torn(case: Case, work: Path, before: dict[str, object], *, done: bool) -> Iterator[str]:
    now = _contents(case, work)
    for output, is_whole in case.outputs.items():
        if now[output] == before[output]:
            if done:
                yield f"success, and {output} is the old one"
            continue
        try:
            is_whole(work / output)
        except Exception as error:
            yield f"{output} is neither the old one nor the new one: {type(error).__name__}: {error}"


def _contents(case: Case, work: Path) -> dict[str, object]:
    """output -> its bytes, or those of the files in it; None where there is none."""
    return {output: _content(work / output) for output in case.outputs}


def _content(path: Path) -> object:
    if path.is_dir():
        return {str(one): one.read_bytes() for one in sorted(path.rglob("*")) if one.is_file()}
    return path.read_bytes() if path.exists() else None


def _listing(work: Path) -> set[str]:
    return {str(path.relative_to(work)) for path in work.rglob("*")}


def _table(rows: list[Row]) -> str:
    faults = ["power cut", *(fault.name for fault in disk.FAULTS)]
    head = ["command", *disk.CALLS, *faults, "broke"]
    lines = [head, ["---", *["---:"] * (len(head) - 1)]]
    for row in rows:
        cells = [row.counts[call] for call in disk.CALLS] + [row.runs.get(fault, 0) for fault in faults]
        lines.append([f"`{row.name}`", *map(str, cells), str(len(row.broken))])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    sys.exit(main())
