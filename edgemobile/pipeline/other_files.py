"""Writes the other files of an export: labels.txt, a program that runs the models on a board, and a README."""

from __future__ import annotations

import ast
import io
import shlex
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType

from PIL import Image

from edgemobile import boxes, pixels
from edgemobile.accuracy.classifier import ClassifierOptions, Prediction, classify, open_classifier
from edgemobile.devices.runtimes.table import RUNTIMES, default_runtime
from edgemobile.errors import EdgemobileError
from edgemobile.loading.checkpoint import CHECK_IMAGES
from edgemobile.loading.model import Model
from edgemobile.model_file.model_file import ModelFile
from edgemobile.pipeline import predict_program
from edgemobile.pipeline.artifact import LABELS_FILE, ManifestEntry
from edgemobile.pipeline.folder import Recorded
from edgemobile.pipeline.readme_of_outputs import readme_of_outputs

__all__ = ["predict_source", "with_pixels", "write_other_files"]

_PREDICT, _README, _SAMPLE = "predict.py", "README.md", "sample.png"
_TOP = 5  # the default of predict.py
# The file to try first: the smallest, in the format with runtimes for more boards.
_ORDER = ("int8", "weight-only", "float16", "float32")
_HEADER = '''"""{docstring}"""

from __future__ import annotations

{imports}

try:
    import numpy as np
    from PIL import Image, ImageOps
except ImportError as error:
    sys.exit(f"error: {{error.name}} is not installed. Run: pip install numpy Pillow")


class BrokenImage(Exception):
    """An image file that cannot be read, or whose outputs are not finite."""


'''
# Imports that the header already has.
_INSTALLED = ("numpy", "PIL", "edgemobile", "__future__")


def write_other_files(
    model: Model,
    entries: Sequence[ManifestEntry],
    written: Mapping[str, ModelFile],
    folder: Path,
    *,
    name: str,
    threads: int,
) -> list[Recorded]:
    """Write labels.txt if labels are known, predict.py, sample.png and README.md; returns the files written.

    A detector has no sample.png, and another net that is not a classifier has only README.md. `written` are the files
    of `entries` by name, and `name` is the final name of the folder.
    """
    ordered = sorted(entries, key=lambda one: (_ORDER.index(one.precision), one.format != "tflite"))
    if model.is_classifier:
        files = _of_a_classifier(model, ordered, written, name, threads)
    else:
        runtimes = [_distribution(one.format) for one in ordered]
        program = {} if model.postprocess is None else {_PREDICT: predict_source().encode(), **_labels(model)}
        files = {**program, _README: readme_of_outputs(model, ordered, written, runtimes).encode()}
    for file, data in files.items():
        (folder / file).write_bytes(data)
    return [Recorded.of(folder / file) for file in files]


def _of_a_classifier(
    model: Model, ordered: Sequence[ManifestEntry], written: Mapping[str, ModelFile], name: str, threads: int
) -> dict[str, bytes]:
    with zipfile.ZipFile(CHECK_IMAGES) as archive:
        sample = archive.read(min(archive.namelist()))
    files = {_PREDICT: predict_source().encode(), _SAMPLE: sample}
    return {**files, **_labels(model), _README: _readme(model, ordered, written, sample, name, threads).encode()}


def _labels(model: Model) -> dict[str, bytes]:
    if model.labels is None:
        return {}
    return {LABELS_FILE: "".join(f"{label}\n" for label in model.labels).encode()}


# ---- predict.py -----------------------------------------------------------------------------------------------------


def predict_source() -> str:
    """The text of predict.py."""
    return _with_code_of((pixels, boxes), Path(str(predict_program.__file__)).read_text(encoding="utf-8"))


def with_pixels(program: str) -> str:
    """A program that imports from edgemobile.pixels, with the import replaced by the code of that module."""
    return _with_code_of((pixels,), program)


def _with_code_of(modules: Sequence[ModuleType], program: str) -> str:
    sources = (*(Path(str(module.__file__)).read_text(encoding="utf-8") for module in modules), program)
    imports = sorted({line for source in sources for line in _standard_imports(source)}, key=_import_order)
    header = _HEADER.format(docstring=ast.get_docstring(ast.parse(program), clean=False), imports="\n".join(imports))
    return header + "\n\n".join(map(_code, sources))


def _standard_imports(source: str) -> list[str]:
    """The lines that import from the standard library, which every Python has."""
    found = [node for node in ast.parse(source).body if isinstance(node, ast.Import | ast.ImportFrom)]
    return [ast.unparse(node) for node in found if _imported(node).partition(".")[0] not in _INSTALLED]


def _imported(node: ast.Import | ast.ImportFrom) -> str:
    return str(node.module) if isinstance(node, ast.ImportFrom) else node.names[0].name


def _import_order(line: str) -> tuple[bool, str]:
    return line.startswith("from"), line


def _code(source: str) -> str:
    """The code after the imports and `__all__`."""
    end = next(node.end_lineno for node in ast.parse(source).body if isinstance(node, ast.Assign))
    return "\n".join(source.splitlines()[end:]).strip("\n") + "\n"


# ---- README.md ------------------------------------------------------------------------------------------------------


def _readme(
    model: Model,
    ordered: Sequence[ManifestEntry],
    written: Mapping[str, ModelFile],
    sample: bytes,
    name: str,
    threads: int,
) -> str:
    image = Image.open(io.BytesIO(sample))
    answers = [_answer(written[one.file], image, threads) for one in ordered]
    first = ordered[0]
    runtime = _distribution(first.format)
    rows = [
        f"| `{one.file}` | {one.bytes / 2**20:.2f} MiB | `{_distribution(one.format)}` | {_cell(answer)} |"
        for one, answer in zip(ordered, answers, strict=True)
    ]
    labels = "\n`labels.txt` has the names of the classes, in the order of the outputs." if model.labels else ""
    return _PAGE.format(
        title=model.name,
        reference=model.reference,
        name=shlex.quote(name),
        first=shlex.quote(first.file),
        runtime=runtime,
        expected=_expected(first, answers[0]),
        rows="\n".join(rows),
        labels=labels,
    )


_PAGE = """# {title}

`predict.py` classifies images with these files. It needs Python 3.9 or later, numpy, Pillow and one runtime, and not
edgemobile.

## On the board

1. Copy this folder to the board, here a Raspberry Pi. In its parent folder, run:

       scp -r {name} pi@raspberrypi.local:

2. On the board:

       cd {name}
       python3 -m venv venv
       . venv/bin/activate
       pip install numpy Pillow {runtime}

3. Run it:

       python predict.py {first} sample.png

   It should print a line with the version of the runtime, and then this; the last digits depend on the CPU core:

{expected}

4. Classify your own photo. `--json` prints JSON, `--top 10` prints more classes:

       python predict.py {first} photo.jpg

## Files

| file | size | runtime | best class of `sample.png` |
|---|---:|---|---|
{rows}

`sample.png` is synthetic: it shows whether the board computes the same as this machine, not how accurate a model
is.{labels} `manifest.json` contains the preprocessing, the origin of everything, and the comparison of each file with
{reference}; `edgemobile verify` checks the folder against it.
"""


def _distribution(format_name: str) -> str:
    return RUNTIMES[default_runtime(format_name)].distribution


def _answer(file: ModelFile, image: Image.Image, threads: int) -> list[Prediction] | str:
    """The file's result for the image, or the reason why there is none."""
    try:
        # The export has just written and run this file, so no separate process is needed.
        options = ClassifierOptions(threads=threads, isolated=False)
        return classify(open_classifier(str(file.path), options, file), image, _TOP)
    except EdgemobileError as error:
        return str(error).replace(str(file.path), file.name)


def _cell(answer: list[Prediction] | str) -> str:
    words = answer if isinstance(answer, str) else f"{answer[0].label}, {answer[0].probability:.1%}"
    return words.replace("|", "\\|")


def _expected(first: ManifestEntry, answer: list[Prediction] | str) -> str:
    if isinstance(answer, str):
        return f"       error: {answer}"
    return "\n".join(["       sample.png", *(f"         {one.probability:6.1%}  {one.label}" for one in answer)])
