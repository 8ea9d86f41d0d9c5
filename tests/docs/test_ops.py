"""The table of ops in the documentation is the table of the code."""

from __future__ import annotations

from types import ModuleType

import pytest

from edgemobile.lower.ops import LOWERINGS


@pytest.fixture(scope="module")
def rows(hooks: ModuleType) -> dict[str, tuple[str, str]]:
    lines = [line for line in hooks.op_table().splitlines() if line.startswith("| `")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    found = {op.strip("`"): (status, note) for op, status, note in cells}
    assert len(found) == len(lines), "an op twice"
    return found


def test_every_lowering_has_a_row_that_says_how(rows: dict[str, tuple[str, str]]) -> None:
    for target in LOWERINGS:
        if target.startswith("aten."):
            status, note = rows[target.split(".")[1].removesuffix("_")]
            assert status in ("lowered", "folded"), target
            assert note, f"{target}: its function has no docstring"


@pytest.mark.parametrize(
    ("op", "status", "note"),
    [
        ("conv2d", "lowered", "With any kernel"),
        ("batch_norm", "folded", "Folded into the layer before it"),
        ("dropout", "folded", "Returns its input unchanged"),
        ("upsample_bilinear2d", "lowered", "align_corners"),
        ("gelu", "lowered", "Exact"),
        ("layer_norm", "refused", ""),
        ("softmax", "refused", "`predict` convert logits"),
    ],
)
def test_what_becomes_of_an_op(rows: dict[str, tuple[str, str]], op: str, status: str, note: str) -> None:
    assert rows[op][0] == status
    assert note in rows[op][1]


def test_the_page_has_the_table(hooks: ModuleType, pages: dict[str, str]) -> None:
    assert hooks.op_table() in hooks.on_page_markdown(pages["docs/reference/ops.md"], None)
