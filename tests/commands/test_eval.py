"""`edgemobile eval`: what it prints and how it ends."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from edgemobile.cli import main

pytest.importorskip("onnxruntime")

Run = Callable[..., int]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command line as a shell runs it; gives the exit code."""

    def call(*arguments: object) -> int:
        monkeypatch.setattr("sys.argv", ["edgemobile", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        return int(ended.value.code or 0)

    return call


@pytest.fixture
def files(tmp_path: Path, colour_model: Callable[..., bytes]) -> tuple[Path, Path]:
    """A model that is right, and one that takes red for green."""
    right, swapped = tmp_path / "right[1].onnx", tmp_path / "swapped.onnx"
    right.write_bytes(colour_model("bgr"))
    swapped.write_bytes(colour_model("brg"))
    return right, swapped


def test_a_guessed_preprocessing_stands_beside_its_accuracy(
    run: Run,
    tmp_path: Path,
    colour_model: Callable[..., bytes],
    colour_photos: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One net behind two kinds of input may be guessed to want two things: its accuracies are not comparable."""
    first, last = tmp_path / "nchw.onnx", tmp_path / "nhwc.onnx"
    first.write_bytes(colour_model("bgr"))
    last.write_bytes(colour_model("bgr", shape=(1, 32, 32, 3)))
    assert run("eval", first, last, "--data", colour_photos, "-q") == 0
    header, *rows = [line for line in capsys.readouterr().out.splitlines() if "18 images" not in line]
    assert header.split()[-1] == "preprocess"
    assert rows[0].endswith("assumed ImageNet's mean and standard deviation")
    assert rows[1].endswith("assumed pixels from -1 to 1")
    assert run("eval", first, last, "--data", colour_photos, "-q", "--preprocess", "unit") == 0
    assert "preprocess" not in capsys.readouterr().out
    assert run("eval", first, last, "--data", colour_photos, "--json") == 0
    assert [file["preprocess_assumed"] for file in json.loads(capsys.readouterr().out)["files"]] == [True, True]


def test_the_table_and_what_it_stands_on(
    run: Run, files: tuple[Path, Path], colour_photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("eval", files[1], "--baseline", files[0], "--data", colour_photos) == 0
    shown = capsys.readouterr().out
    for part in ("18 images of photos", "right[1].onnx", "100.00%", "33.33%", "-66.67 points", "baseline", "< 0.001"):
        assert part in shown
    for part in ("float32 NCHW[1, 3, 32, 32]", "assumed ImageNet's mean", "labels unknown: the folders are assumed"):
        assert part in shown


@pytest.mark.parametrize(("max_drop", "code"), [("66.6", 1), ("66.7", 0), ("0", 1), ("100", 0)])
def test_max_drop_decides_the_exit_code(
    run: Run,
    files: tuple[Path, Path],
    colour_photos: Path,
    capsys: pytest.CaptureFixture[str],
    max_drop: str,
    code: int,
) -> None:
    options = ("--baseline", files[0], "--data", colour_photos, "--max-drop", max_drop)
    assert run("eval", *files, *options) == code
    assert ("lost 66.67 points" in capsys.readouterr().out) is (code == 1)
    assert run("eval", *files, *options, "--json") == code
    assert json.loads(capsys.readouterr().out)["passed"] is (code == 0)


def test_help_says_where_the_bound_is(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("eval", "--help") == 0
    assert "more than this many points below the baseline" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--max-drop", "1"), "add --baseline FILE"),
        (("--max-drop", "nan", "--baseline", "none.onnx"), "points of top-1, 0 to 100; found nan"),
        (("--max-drop", "-1", "--baseline", "none.onnx"), "points of top-1, 0 to 100; found -1"),
        (("--max-drop", "inf", "--baseline", "none.onnx"), "points of top-1, 0 to 100; found inf"),
        (("--preprocess", "caffe"), "imagenet, inception, unit, raw"),
        (("--split", "test"), "has no split 'test'"),
        (("--labels", "none.txt"), "cannot read the labels none.txt"),
    ],
)
def test_mistakes_are_one_line(
    run: Run,
    files: tuple[Path, Path],
    colour_photos: Path,
    capsys: pytest.CaptureFixture[str],
    options: tuple[str, ...],
    said: str,
) -> None:
    assert run("eval", files[0], "--data", colour_photos, *options) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_a_file_that_is_refused_is_told_and_the_others_are_counted(
    run: Run, files: tuple[Path, Path], tmp_path: Path, colour_photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torn = tmp_path / "torn.onnx"
    torn.write_bytes(files[0].read_bytes()[:300])
    words = ("eval", torn, files[0], "--data", colour_photos)
    assert run(*words) == 2
    shown = capsys.readouterr().out
    assert "100.00%" in shown
    assert f"refused: {torn}: onnxruntime cannot open" in shown
    assert run(*words, "--json") == 2
    found = json.loads(capsys.readouterr().out)
    assert (found["passed"], [Path(one["file"]).name for one in found["refused"]]) == (False, ["torn.onnx"])
    # Alone, or as what the others are compared with, it is the error of the command.
    for alone in (("eval", torn, "--data", colour_photos), (*words, "--baseline", torn)):
        assert run(*alone) == 2
        assert capsys.readouterr().err.startswith("error: ")
