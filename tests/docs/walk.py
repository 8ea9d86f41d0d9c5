"""Runs every command that README and docs show, and compares its exit code with the one that the docs promise.

    python tests/docs/walk.py                       what .ci/run does: about four minutes on two cores
    python tests/docs/walk.py --all                 the commands that take long, too
    python tests/docs/walk.py docs/inspect.md       one page
    python tests/docs/walk.py --python DIR/bin/python README.md   the edgemobile of another environment

Each page has a new folder with the files that its reader has (`walk_files.py`), and its commands run in the order of
the page. Those that do not, and why, are in `walk_table.py`. A text block after commands is their output: its words
must appear in what they printed.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import walk_files
from walk_table import CODES, NEEDS_A_CORE, OUTPUT_DIFFERS, SKIPPED, SLOW, SUBSTITUTES, Row

__all__ = ["Command", "Outcome", "commands_of", "main", "unused_rows", "walk_page"]

_ROOT = Path(__file__).parent.parent.parent
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.M | re.S)
_IN_A_TABLE = re.compile(r"^\| [^|]* \| `(edgemobile [^`]+)` \|", re.M)
_CORE = re.compile(r"emulated:|\bpi[45]\b")
# In a shell, what the output of a command ends with: its index, its exit code, and the seconds since the shell began.
_MARK = re.compile(r"^@@walk (\d+) (\d+) (\d+)$", re.M)


@dataclass(frozen=True)
class Command:
    """A command of a page in its `block`, with the output that the page shows of it."""

    page: str
    block: int
    line: int
    text: str
    shown: str = ""


@dataclass(frozen=True)
class Outcome:
    """What became of a command: `skipped` has the reason, and `wrong` what differs from the page."""

    command: Command
    code: int | None = None
    skipped: str = ""
    wrong: str = ""
    output: str = field(default="", repr=False)
    seconds: int = 0


def commands_of(page: str, text: str) -> list[Command]:
    """The commands of a page: each line of its sh blocks, each line after `$ ` in text blocks, and of README
    the table of tasks."""
    found: list[Command] = []
    last_end = 0
    for number, block in enumerate(_BLOCK.finditer(text)):
        kind, body = block.groups()
        line = text.count("\n", 0, block.start()) + 2
        if kind == "sh":
            found += [Command(page, number, line + at, command) for at, command in _lines(body)]
            last_end = block.end()
        elif kind == "text" and body.startswith("$ "):
            command, _, shown = body.partition("\n")
            found.append(Command(page, number, line, command.removeprefix("$ "), shown))
        elif kind == "text" and found and not text[last_end : block.start()].strip():
            found[-1] = replace(found[-1], shown=body)
    for row in _IN_A_TABLE.finditer(text if page == "README.md" else ""):
        if all(command.text != row[1] for command in found):
            found.append(Command(page, -1, text.count("\n", 0, row.start()) + 1, row[1]))
    return found


def _lines(block: str) -> Iterator[tuple[int, str]]:
    """(line in the block, command), continued lines joined, without comments."""
    at = 0
    for text in re.split(r"(?<!\\)\n", block):
        command = re.sub(r" *\\\n *", " ", text).strip()
        if command and not command.startswith("#"):
            yield at, command
        at += text.count("\n") + 1


def _row(table: Sequence[Row], command: Command) -> Row | None:
    return next((row for row in table if row.applies(command.page, command.text)), None)


def unused_rows(commands: Sequence[Command]) -> list[Row]:
    """Rows of the tables that no command needs any more."""
    tables = (*SKIPPED, *NEEDS_A_CORE, *SLOW, *CODES, *OUTPUT_DIFFERS)
    return [row for row in tables if not any(row.applies(command.page, command.text) for command in commands)]


def _skipped(command: Command, everything: bool) -> str:
    """Why a command is not run; "" if it is."""
    if skip := _row(SKIPPED, command):
        return skip.why
    if not _has_cores() and (_CORE.search(command.text) or _row(NEEDS_A_CORE, command)):
        return "no emulated cores here: edgemobile devices setup emulated:cortex-a72, and cortex-a76"
    slow = _row(SLOW, command)
    return f"only with --all: {slow.why}" if slow and not everything else ""


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "edgemobile"


def _has_cores() -> bool:
    return all((_cache() / "emulated" / "cores" / core).is_dir() for core in ("cortex-a72", "cortex-a76"))


def walk_page(commands: Sequence[Command], folder: Path, env: dict[str, str], *, everything: bool) -> list[Outcome]:
    """Run the commands of one page in order; each block has a shell of its own that starts in `folder`."""
    script = []
    for block in dict.fromkeys(command.block for command in commands):
        script.append("(")
        for index, command in enumerate(commands):
            if command.block == block and not _skipped(command, everything):
                text = command.text
                for shown, run, _ in SUBSTITUTES:
                    text = text.replace(shown, run)
                script.append(f"{text}\nprintf '\\n@@walk {index} %s %s\\n' $? $SECONDS")
        script.append("true; )")
    done = subprocess.run(
        ["bash"], input="\n".join(script), cwd=folder, env=env, text=True, check=False,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, errors="replace",
    )  # fmt: skip
    parts = _MARK.split(done.stdout)
    ran: dict[int, tuple[int, str, int]] = {}
    before = 0
    for output, index, code, ended in zip(*(iter(parts[:-1]),) * 4, strict=True):
        ran[int(index)] = (int(code), output, int(ended) - before)
        before = int(ended)
    return [_outcome(command, ran.get(index), everything) for index, command in enumerate(commands)]


def _outcome(command: Command, ran: tuple[int, str, int] | None, everything: bool) -> Outcome:
    reason = _skipped(command, everything)
    if reason:
        return Outcome(command, skipped=reason)
    if ran is None:
        return Outcome(command, wrong="did not run: the shell ended before it")
    code, output, seconds = ran
    row = _row(CODES, command)
    allowed = row.codes if row else (0,)
    wrong = "" if code in allowed else f"exit code {code}; the docs promise {' or '.join(map(str, allowed))}"
    if not wrong and not _row(OUTPUT_DIFFERS, command):
        missing = sorted(_words(command.shown) - _words(output))
        wrong = f"its output has no {', '.join(missing)}" if missing else ""
    return Outcome(command, code, wrong=wrong, output=output, seconds=seconds)


def _words(text: str) -> set[str]:
    """The words in a text, singular."""
    return {
        re.sub(r"(?<=ss)es$|(?<=[a-rt-z])s$", "", word) for word in re.findall(r"(?<![\w.-])[A-Za-z]{3,}(?![\w])", text)
    }


def _environment(folder: Path, python: Path, root: Path | None) -> dict[str, str]:
    """A user who has nothing yet, but for what this machine has downloaded for emulated cores."""
    tools, home = folder / "bin", folder / "home"
    tools.mkdir()
    (home / ".cache" / "edgemobile").mkdir(parents=True)
    for kept in ("emulated", "wheels"):
        if (_cache() / kept).exists():
            (home / ".cache" / "edgemobile" / kept).symlink_to(_cache() / kept)
    for name, arguments in (("edgemobile", "-m edgemobile"), ("python", ""), ("python3", "")):
        (tools / name).write_text(f'#!/bin/sh\nexec "{python}" {arguments} "$@"\n')
        (tools / name).chmod(0o755)
    path = os.pathsep.join([str(tools), str(python.parent), os.environ["PATH"]])
    env = {key: value for key, value in os.environ.items() if not key.startswith(("EDGEMOBILE_", "XDG_", "PYTHON"))}
    env |= {"HOME": str(home), "PATH": path, "COLUMNS": "200", "NO_COLOR": "1", "GITHUB_STEP_SUMMARY": "summary.md"}
    env.setdefault("OMP_NUM_THREADS", "1")  # two pages at once, and perhaps other programs, share the cores
    return env | ({"PYTHONPATH": str(root)} if root else {})


def _walked(page: str, commands: list[Command], base: Path, arguments: argparse.Namespace) -> list[Outcome]:
    started = time.monotonic()
    folder = base / re.sub(r"\W", "-", page)
    (folder / "work").mkdir(parents=True)
    env = _environment(folder, arguments.python, arguments.root)
    walk_files.lay(page, base / "files", folder / "work")
    outcomes = walk_page(commands, folder / "work", env, everything=arguments.all)
    print(
        f"{page}: {sum(o.code is not None for o in outcomes)} commands, {time.monotonic() - started:.0f} s", flush=True
    )
    for outcome in outcomes:
        if arguments.times and outcome.code is not None:
            print(f"  {outcome.seconds:4} s  {outcome.command.text[:90]}")
        _print_wrong(outcome)
    return outcomes


def _print_wrong(outcome: Outcome) -> None:
    if outcome.wrong:
        command = outcome.command
        print(f"WRONG {command.page}:{command.line}: {command.text}\n  {outcome.wrong}", flush=True)
        print("".join(f"  | {line}\n" for line in outcome.output.strip().splitlines()[-30:]), end="", flush=True)


def _print(outcomes: Sequence[Outcome], unused: Sequence[Row]) -> None:
    print("\nnot run, and why")
    for outcome in outcomes:
        if outcome.skipped:
            print(f"  {outcome.command.page}:{outcome.command.line}: {outcome.command.text[:70]}: {outcome.skipped}")
    for row in unused:
        print(f"\nWRONG tests/docs/walk_table.py: no command of {row.page} begins with {row.starts!r}")


def main(words: Sequence[str] | None = None) -> int:
    """Exit code: 0, or 1 when a page is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pages", nargs="*", help="paths from the root of the checkout; default: README.md and docs/")
    parser.add_argument("--all", action="store_true", help="the commands that take long, too")
    parser.add_argument("--times", action="store_true", help="print the seconds of each command")
    parser.add_argument("--python", type=Path, help="the interpreter that edgemobile is installed for")
    arguments = parser.parse_args(words)
    arguments.root = None if arguments.python else _ROOT
    arguments.python = (arguments.python or Path(sys.executable)).absolute()
    every = ["README.md", *(str(path.relative_to(_ROOT)) for path in sorted((_ROOT / "docs").rglob("*.md")))]
    pages = {page: commands_of(page, (_ROOT / page).read_text(encoding="utf-8")) for page in arguments.pages or every}
    pages = {page: commands for page, commands in pages.items() if commands}
    unused = [] if arguments.pages else unused_rows([command for commands in pages.values() for command in commands])
    base = Path(tempfile.mkdtemp(prefix="edgemobile-docs-"))
    try:
        (base / "files").mkdir()
        env = _environment(base / "files", arguments.python, arguments.root)
        walk_files.make(base / "files", env, pages, cores=_has_cores())
        with ThreadPoolExecutor(2) as pool:
            walked = pool.map(lambda item: _walked(*item, base, arguments), pages.items())
            outcomes = [outcome for page in walked for outcome in page]
    finally:
        shutil.rmtree(base)
    _print(outcomes, unused)
    ran, wrong = sum(o.code is not None for o in outcomes), sum(bool(o.wrong) for o in outcomes) + len(unused)
    print(f"\n{ran} commands ran, {len(outcomes) - ran} did not, {wrong} are wrong")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
