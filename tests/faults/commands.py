"""Every command that writes, with what it reads and what its files have to be: the rows of the fault matrix."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

__all__ = ["CASES", "Case", "make_inputs"]


@dataclass(frozen=True)
class Case:
    """`words` are the command line, run in an empty folder with INPUTS replaced.

    `outputs` are the paths that it writes -> what raises where one is not whole. `before` writes earlier outputs.
    `stdout` names a file that the shell opened for its output. `steady` says that it is the same every time.
    """

    words: str
    outputs: Mapping[str, Callable[[Path], object]]
    before: Callable[[Path, Path], None] = lambda work, inputs: None
    stdout: str = ""
    env: Mapping[str, str] = field(default_factory=dict)
    # Exit codes of success, and others of a run after one that wrote: sample-data replaces nothing.
    done: tuple[int, ...] = (0,)
    again: tuple[int, ...] = ()

    @property
    def reads_inputs(self) -> bool:
        return "INPUTS" in self.words or self.before in (_old_export, _old_int8)

    def argv(self, inputs: Path) -> list[str]:
        return self.words.replace("INPUTS", str(inputs)).split()


_NARROW = "--weights random --width 0.35 --res 32 --classes 10 --check-images 2 -q"
_MODEL = "INPUTS/model/v3-small-float32.onnx"
_GATE = """[gate]
images = 2
layers = false
[models.mine]
model = "v3-small"
weights = "random"
width = 0.35
res = 32
classes = 10
formats = ["onnx"]
"""
_DEVICES = '[pi4]\naddress = "ssh://pi@pi4"\n'


def make_inputs(folder: Path, run: Callable[[str], None]) -> None:
    """What the commands read, made with `run`, which runs a command line."""
    run(f"export v3-small {_NARROW} --to onnx --out {folder}/model")
    run(f"sample-data {folder}/samples")
    run(f"bench {folder}/model --runs 2 --processes 1 -q --out {folder}/run.json")
    # As after an upgrade: another edgemobile wrote it.
    shutil.copytree(folder / "model", folder / "old")


# ---- whole ----------------------------------------------------------------------------------------------------------


def _export(path: Path) -> None:
    from edgemobile.pipeline.folder import verify

    found = verify(path)
    assert found.passed, f"{path} does not match its manifest"
    assert not found.extra, f"{path} has {found.extra}"


def _json(path: Path) -> None:
    json.loads(path.read_text())


def _run(path: Path) -> None:
    from edgemobile.devices.host.records import load_run

    load_run(path)


def _xml(path: Path) -> None:
    ElementTree.parse(path)


def _page(path: Path) -> None:
    assert path.read_text().rstrip().endswith("</html>"), f"{path} has no end"


def _text(path: Path) -> None:
    assert path.read_text().endswith("\n"), f"{path} has no end"


def _csv(path: Path) -> None:
    rows = list(csv.reader(path.read_text().splitlines()))
    assert len(rows) == 2, f"{path} has {len(rows)} rows"
    assert len(rows[0]) == len(rows[1]), f"{path} is cut"


def _devices(path: Path) -> None:
    from edgemobile.devices.host.profiles import Device
    from edgemobile.util.config_file import read_config

    rows = read_config(path).tables
    assert {"pi5"} <= set(rows) <= {"pi4", "pi5"}, f"{path} has {sorted(rows)}"
    assert Device("pi5", rows["pi5"]["address"])


def _store(path: Path) -> None:
    """A store is added to: nothing that was in it may change, and a line that is cut is the last of one writer."""
    from edgemobile.results.store import read

    found = read(path)
    assert len(found.damaged) <= 1, f"{path} has damaged lines: {found.damaged}"
    assert [result.file for result in found.results][:1] == ["earlier.onnx"], f"{path} lost its first result"
    new = [result for result in found.results if result.file != "earlier.onnx"]
    assert len(set(new)) == len(new), f"{path} has a result twice"


def _samples(path: Path) -> None:
    from PIL import Image

    images = sorted(path.rglob("*.png"))
    assert len(images) == 82, f"{path} has {len(images)} images"
    for image in images:
        with Image.open(image) as opened:
            opened.load()


def _cache(path: Path) -> None:
    for result in (path / "results").glob("[!.]*"):
        _json(result)
    for folder in (path / "files").glob("[!.]*"):
        _export(folder)
    assert (path / ".gitignore").read_text() == "*\n", f"{path} would be committed"


# ---- before ---------------------------------------------------------------------------------------------------------


def _old_export(work: Path, inputs: Path) -> None:
    shutil.copytree(inputs / "old", work / "out")


def _old_int8(work: Path, inputs: Path) -> None:
    from edgemobile.pipeline.folder import MANIFEST_FILE

    _old_export(work, inputs)
    manifest = work / "out" / MANIFEST_FILE
    manifest.write_text(manifest.read_text().replace("float32", "int8"))
    for path in manifest.parent.glob("*float32*"):
        path.rename(path.with_name(path.name.replace("float32", "int8")))


def _files(**texts: str) -> Callable[[Path, Path], None]:
    def write(work: Path, inputs: Path) -> None:
        for name, text in texts.items():
            path = work / name.replace("_", ".")
            path.write_text(text)

    return write


def _old_store(work: Path, inputs: Path) -> None:
    from edgemobile.results.record import Result

    earlier = Result(
        created="2026-01-31T12:00:00+00:00",
        file="earlier.onnx",
        sha256=None,
        precision=None,
        device="pi4",
        board=None,
        runtime=None,
        threads=1,
        metric="latency_ms",
        value=1.0,
        count=1,
    )
    (work / "results.jsonl").write_text(earlier.to_line())


def _gate(work: Path, inputs: Path) -> None:
    (work / "edgemobile.toml").write_text(_GATE)


CASES: dict[str, Case] = {
    "export": Case(f"export v3-small {_NARROW} --to onnx --out out --overwrite", {"out": _export}, _old_export),
    "export, first": Case(f"export v3-small {_NARROW} --to onnx --out out --overwrite", {"out": _export}),
    "quantize": Case(f"quantize v3-small {_NARROW} --to tflite --out out --overwrite", {"out": _export}, _old_int8),
    "bench --out": Case(
        f"bench {_MODEL} --runs 2 --processes 1 -q --out run.json",
        {"run.json": _run},
        _files(run_json="old"),
        done=(0, 5),
    ),
    "eval --json": Case(
        f"eval {_MODEL} --data INPUTS/samples --limit 4 --preprocess unit -q --json",
        {"eval.json": _json},
        stdout="eval.json",
    ),
    "parity --junit": Case(
        f"parity {_MODEL} {_MODEL} --images 2 -q --junit parity.xml",
        {"parity.xml": _xml},
        _files(parity_xml="<?xml old"),
    ),
    "report": Case(
        "report INPUTS/run.json INPUTS/model --html page.html --md page.md --csv page.csv --cards cards",
        {"page.html": _page, "page.md": _text, "page.csv": _csv, "cards/v3-small-float32.onnx.md": _text},
        _files(page_html="old", page_md="old", page_csv="old"),
    ),
    "snippet": Case(f"snippet {_MODEL} --lang cpp --out run.cpp", {"run.cpp": _text}, _files(run_cpp="old")),
    "ci": Case("ci -q --junit gate.xml", {".edgemobile": _cache, "gate.xml": _xml}, _gate),
    "devices add": Case(
        "devices add pi5 ssh://pi@pi5",
        {"devices.toml": _devices},
        _files(devices_toml=_DEVICES),
        env={"EDGEMOBILE_DEVICES": "devices.toml"},
        again=(2,),
    ),
    "sample-data": Case("sample-data samples", {"samples": _samples}, again=(2,)),
    "eval --results": Case(
        f"eval {_MODEL} --data INPUTS/samples --limit 4 --preprocess unit -q --results results.jsonl",
        {"results.jsonl": _store},
        _old_store,
    ),
    "results add": Case("results add INPUTS/run.json --store results.jsonl", {"results.jsonl": _store}, _old_store),
    "verify": Case("verify INPUTS/model --json", {"verify.json": _json}, stdout="verify.json"),
}
