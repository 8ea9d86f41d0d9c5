"""edgemobile.toml: which line a key stands on, however it is written, and what an unreadable file gets."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgemobile.errors import EdgemobileError
from edgemobile.util.config_file import read_config

_TEXT = """\
# a comment
top = 1

[gate]   # another
images = 4
note = \"\"\"
[not.a.table]
images = 5
\"\"\"
list = [
  "a",
  "b",
]
after = 1
[models."v3.large"]
tolerances.int8 = { sqnr_db = 20 }
'quoted key' = 1

  [[rows]]
  deep.er = 1
"""


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        (("top",), 2),
        (("gate",), 4),
        (("gate", "images"), 5),
        (("gate", "note"), 6),
        (("gate", "list"), 10),
        (("gate", "after"), 14),
        (("models", "v3.large"), 15),
        (("models", "v3.large", "tolerances", "int8", "sqnr_db"), 16),
        (("models", "v3.large", "quoted key"), 17),
        (("rows", "deep", "er"), 20),
        # What is not there is looked for in what is around it.
        (("models", "v3.large", "absent"), 15),
        (("absent",), 1),
    ],
)
def test_the_line_of_a_key(tmp_path: Path, keys: tuple[str, ...], line: int) -> None:
    path = tmp_path / "edgemobile.toml"
    path.write_text(_TEXT.replace("\n", "\r\n"), newline="")
    error = read_config(path).wrong(keys, "no")
    assert str(error).startswith(f"{path}:{line}: ")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"a = 1\nb = \n", ":2: not TOML"),
        (b"a = 1\na = 2\n", ":2: not TOML"),
        (b"[a\n", ":1: not TOML"),
        (b'a = """\n\n', "not TOML"),
        (b"a = '\xff'", "not UTF-8"),
        (b"#" * (2**20 + 1), "larger than"),
        (b"a = " + b"[" * 100_000, "not TOML"),
    ],
)
def test_what_is_no_configuration(tmp_path: Path, data: bytes, said: str) -> None:
    path = tmp_path / "edgemobile.toml"
    path.write_bytes(data)
    with pytest.raises(EdgemobileError, match=said):
        read_config(path)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(EdgemobileError, match="cannot read"):
        read_config(tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("[a]\nx = 1\n# of b\n[b]\n", "# of b\n[b]\n"),
        ("[a]\nx = 1\n# of a\n\n# of b\n[[b]]\n", "# of b\n[[b]]\n"),
        ("[a]\n# of x\nx = 1\n# of a.b\n[a.b]\n# the end\n", ""),
        ('[a]\nx = """\n# no comment"""\n[b]\n', "[b]\n"),
        ("# of a\na.x = 1\n# of b\n[b]\n", "# of a\n# of b\n[b]\n"),
        # What ends a line elsewhere does not in TOML.
        ("[b]\nx = '\u2028'\n[a]\nx = 1\n", "[b]\nx = '\u2028'\n"),
    ],
)
def test_a_table_goes_and_the_comment_of_the_next_one_stays(tmp_path: Path, text: str, kept: str) -> None:
    path = tmp_path / "edgemobile.toml"
    path.write_text(text, encoding="utf-8")
    assert read_config(path).without("a") == kept
