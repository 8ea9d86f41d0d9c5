"""Records and progress in the kernel of a notebook. Skips without ipykernel and nbclient."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from edgemobile.printing.notebook import _bar, in_notebook

_CELLS = (
    """
import os, sys
sys.path[:0] = os.environ["EDGEMOBILE_TEST_PATH"].split(os.pathsep)
import edgemobile
options = {"weights": "random", "width": 0.35, "res": 32, "to": "tflite", "check_images": 2}
exported = edgemobile.export("v3-small", out="net", **options)
""",
    "exported",
    "print(exported)",
    """
import time
from edgemobile.printing.notebook import NotebookProgress
with NotebookProgress().step("a <b>", 4) as report:
    for done in range(4):
        time.sleep(0.35)
        report(done + 1)
""",
)


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> list[list[Any]]:
    """What each cell displays, in a kernel of this Python."""
    for package in ("torch", "ai_edge_litert", "ipykernel"):
        pytest.importorskip(package)
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    folder = tmp_path_factory.mktemp("notebook")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEMOBILE_TEST_PATH", str(Path(__file__).parents[2]))
        patch.setenv("JUPYTER_PATH", str(_kernel(folder)))
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in _CELLS])
        client = nbclient.NotebookClient(
            notebook, timeout=300, kernel_name="this", resources={"metadata": {"path": str(folder)}}
        )
        client.execute()
    return [cell.outputs for cell in notebook.cells]


def _kernel(folder: Path) -> Path:
    path = folder / "jupyter" / "kernels" / "this"
    path.mkdir(parents=True)
    argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (path / "kernel.json").write_text(json.dumps({"argv": argv, "display_name": "this", "language": "python"}))
    return folder / "jupyter"


def test_a_record_shows_once_and_in_columns(outputs: list[list[Any]]) -> None:
    (shown,) = outputs[1]
    assert shown.output_type == "execute_result"
    page = shown.data["text/html"]
    assert page.count("v3-small-float32.tflite") == 1
    assert re.match(r"<pre style=\"[^\"]*font-family:[^\"]*monospace\"", page)


def test_a_printed_record_prints_once(outputs: list[list[Any]]) -> None:
    (printed,) = outputs[2]
    assert printed.output_type == "stream"
    assert printed.text.count("v3-small-float32.tflite") == 1


def test_a_bar_goes_on_and_leaves_a_line(outputs: list[list[Any]]) -> None:
    shown = [output for output in outputs[3] if output.output_type == "display_data"]
    assert [re.sub(r"\d s", "N s", output.data["text/html"]) for output in shown] == ["<div>a &lt;b&gt;, N s</div>"]


def test_commands_from_python_show_their_steps(outputs: list[list[Any]]) -> None:
    shown = [output for output in outputs[0] if output.output_type == "display_data"]
    assert len(shown) > 2
    assert all("<progress" not in output.data["text/html"] for output in shown)


def test_this_is_no_notebook() -> None:
    assert not in_notebook()


def test_a_bar_tells_how_far() -> None:
    assert _bar("steps", 3, 9) == '<div><progress value="3" max="9"></progress> steps</div>'
    assert "value" not in _bar("steps", 3, None)
