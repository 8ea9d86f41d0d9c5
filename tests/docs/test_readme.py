"""README is one screen that a newcomer can act on, and its figures are those of the docs."""

from __future__ import annotations

import re

import pytest

_FIRST_SCREEN = 40
_MAX_LINES = 150


@pytest.fixture(scope="module")
def lines(pages: dict[str, str]) -> list[str]:
    return pages["README.md"].splitlines()


@pytest.fixture(scope="module")
def screen(lines: list[str]) -> list[str]:
    return lines[:_FIRST_SCREEN]


def _tables(lines: list[str]) -> list[list[list[str]]]:
    """Every table as rows of cells, without the line below its header."""
    found = re.findall(r"(?:^\|.*\|\n)+", "\n".join([*lines, ""]), re.M)
    rows = [[[cell.strip() for cell in row.strip("|").split("|")] for row in table.splitlines()] for table in found]
    return [[row for row in table if not set("".join(row)) <= set("-:")] for table in rows]


def test_its_length(lines: list[str]) -> None:
    assert len(lines) <= _MAX_LINES


def test_it_begins_with_one_sentence(screen: list[str]) -> None:
    assert screen[0] == "# edgemobile"
    sentence = screen[1]
    assert sentence.endswith(".")
    assert sentence.count(". ") == 0
    assert screen[2] == ""


def test_install_and_export_are_separate_steps(screen: list[str]) -> None:
    steps = "\n".join(screen).split("```sh\n")[1].split("```")[0].splitlines()
    assert len(steps) == 2
    assert steps[0].startswith("pip install ")
    assert steps[1] == "edgemobile export v3-large --int8"


def test_the_result_has_four_columns(screen: list[str]) -> None:
    header, *rows = _tables(screen)[0]
    assert header == ["file", "size", "latency", "same answer as PyTorch"]
    assert len(rows) == 4
    assert all(re.fullmatch(r"`v3-large-(float32|int8)\.(onnx|tflite)`", row[0]) for row in rows)


def test_three_lines_of_python(screen: list[str]) -> None:
    python = "\n".join(screen).split("```python\n")[1].split("```")[0]
    assert len(list(filter(None, python.splitlines()))) == 3
    compile(python, "README.md", "exec")


def test_int8_beside_other_quantizers(screen: list[str], pages: dict[str, str]) -> None:
    """Drop and agreement of every net are the figures of docs/quantization.md, of the same quantizer."""
    header, *rows = _tables(screen)[1]
    nets = [cell.partition(",")[0] for cell in header[1:]]
    assert nets == ["v1", "v2", "v3-small", "v3-large"]
    assert [row[0].strip("*") for row in rows] == ["edgemobile", "TFLiteConverter", "onnxruntime, per channel"]
    measured = _tables(pages["docs/quantization.md"].splitlines())
    others = next(table for table in measured if table[0][1:] and table[0][1] == "default")
    large = next(table for table in measured if table[0][:2] == ["recipe", "top-1"])
    for row, column, recipe in zip(
        rows,
        ("default", "TFLiteConverter", "onnxruntime, per channel"),
        ("**default**", "TFLiteConverter", "onnxruntime, per channel"),
        strict=True,
    ):
        found = [tuple(float(number) for number in re.findall(r"-?\d+\.\d+", cell)) for cell in row[1:]]
        cells = [line[others[0].index(column)] for line in others[1:]]
        wanted = [tuple(float(number) for number in re.findall(r"-?\d+\.\d+", cell))[:2] for cell in cells]
        last = next(line for line in large if line[0] == recipe)
        assert found == [*wanted, (float(last[2]), float(last[3].rstrip("%")))]


def test_i_want_to(screen: list[str]) -> None:
    header, *rows = _tables(screen)[2]
    assert header == ["I want to", "command", "page"]
    assert len(rows) == 10
    for _, command, page in rows:
        assert re.fullmatch(r"`edgemobile .*`", command)
        assert re.fullmatch(r"\[.*\]\(docs/.*\)", page)


@pytest.mark.parametrize("marker", ["<!-- ci: main -->", "<!-- ci: test -->"])
def test_ci_finds_its_blocks(lines: list[str], marker: str) -> None:
    """.ci/run takes the fenced block behind the marker."""
    assert lines.count(marker) == 1
    assert lines[lines.index(marker) + 1] == "```sh"
