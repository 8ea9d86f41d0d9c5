"""tests/docs/walk.py, which .ci/run runs on README and docs: it finds what a page shows, and a page that is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

_PAGE = """
```sh
# a comment
edgemobile models \\
    v3-small    # one model
cd folder
```

```text
features  MACs
```

| I want to | command |
|---|---|
| see models | `edgemobile models` |

```text
$ edgemobile inspect a.onnx
a.onnx: no file
```
"""


@pytest.fixture(scope="module")
def walk(load_script):
    return load_script("tests/docs/walk.py")


def test_it_finds_the_commands_and_their_output(walk) -> None:
    found = [(one.block, one.line, one.text, one.shown) for one in walk.commands_of("README.md", _PAGE)]
    assert found == [
        (0, 4, "edgemobile models v3-small    # one model", ""),
        (0, 6, "cd folder", "features  MACs\n"),
        (2, 18, "edgemobile inspect a.onnx", "a.onnx: no file\n"),
        (-1, 15, "edgemobile models", ""),
    ]
    assert [one.text for one in walk.commands_of("docs/inspect.md", _PAGE)][-1] == "edgemobile inspect a.onnx"


def test_each_row_of_its_tables_is_for_a_command_there_is(walk, pages: dict[str, str]) -> None:
    commands = [one for page, text in pages.items() for one in walk.commands_of(page, text)]
    assert walk.unused_rows(commands) == []
    assert len(commands) > 100
    assert walk.unused_rows([]) != []


@pytest.mark.parametrize(
    ("block", "wrong"),
    [
        ("```sh\nedgemobile models v3-small\n```\n```text\nparams  MACs\n```\n", ""),
        ("```sh\nedgemobile models v9\n```\n", "exit code 2; the docs promise 0"),
        ("```sh\nedgemobile models\n```\n```text\nparams  joules\n```\n", "its output has no joule"),
        ("```sh\nexit\nedgemobile models\n```\n", "did not run: the shell ended before it"),
        # The second block begins in the folder of the page again.
        ("```sh\nmkdir a\ncd a\n```\n\n```sh\ncd a\n```\n", ""),
    ],
)
def test_a_page_that_is_wrong_is_red(
    walk, tmp_path: Path, capsys: pytest.CaptureFixture[str], block: str, wrong: str
) -> None:
    page = tmp_path / "page.md"
    page.write_text(block)
    code = walk.main([str(page)])
    said = capsys.readouterr().out
    assert code == (1 if wrong else 0), said
    assert wrong in said
    assert ("WRONG" in said) == bool(wrong)
