"""Where labels are found, which place counts, and how folders become outputs."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest

from edgemobile.errors import EdgemobileError
from edgemobile.images.class_labels import find_labels, has_background, match_folders

NAMES = ["cat", "dog", "owl"]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.tflite"
    path.write_bytes(b"\0\0\0\0TFL3")
    return path


def write(path: Path, names: list[str]) -> Path:
    path.write_text("\n".join(names) + "\n")
    return path


def test_the_mark_of_an_editor_is_no_part_of_the_first_label(model: Path) -> None:
    text = b"\xef\xbb\xbfcat\r\ndog\r\nowl\r\n"
    model.with_name("labels.txt").write_bytes(text)
    assert find_labels(model, 3, {}).names == tuple(NAMES)
    assert find_labels(model, 3, {}, model.with_name("labels.txt")).names == tuple(NAMES)
    with zipfile.ZipFile(model, "a") as archive:
        archive.writestr("labelmap.txt", text)
    assert find_labels(model, 3, {}).names == tuple(NAMES)


def test_a_label_does_not_steer_a_terminal(model: Path) -> None:
    odd = ["cat\x1b[31m", "dog\tpuppy", "owl\x07\u202e"]
    clean = ("cat?[31m", "dog puppy", "owl??")
    assert find_labels(model, 3, {"edgemobile.labels": json.dumps(odd)}).names == clean
    write(model.with_name("labels.txt"), odd)
    assert find_labels(model, 3, {}).names == clean


def test_a_label_of_digits_alone_is_a_label(model: Path) -> None:
    digits = "1" * 5000
    write(model.with_name("labels.txt"), [f"{digits} cat", "dog", "owl"])
    assert find_labels(model, 3, {}).names == (f"{digits} cat", "dog", "owl")


def test_the_first_place_that_has_them_counts(model: Path) -> None:
    assert find_labels(model, 3, {}).names is None
    write(model.with_name("pet_labels.txt"), ["p", "q", "r"])
    assert find_labels(model, 3, {}).names == ("p", "q", "r")
    write(model.with_name("labels.txt"), ["x", "y", "z"])
    assert find_labels(model, 3, {}).names == ("x", "y", "z")
    with zipfile.ZipFile(model, "a") as archive:  # as the TFLite metadata tools do
        archive.writestr("labelmap.txt", "k\nl\nm\n")
    data = model.read_bytes()
    assert find_labels(model, 3, {}, data=data).names == ("k", "l", "m")
    metadata = {"edgemobile.labels": json.dumps(NAMES)}
    assert find_labels(model, 3, metadata, data=data).names == tuple(NAMES)
    explicit = write(model.with_name("mine.txt"), ["1", "2", "3"])
    assert find_labels(model, 3, metadata, explicit, data).source == str(explicit)


def test_two_lists_beside_it_are_no_answer(model: Path) -> None:
    write(model.with_name("a_labels.txt"), NAMES)
    write(model.with_name("b_labels.txt"), NAMES)
    assert find_labels(model, 3, {}).names is None


def test_a_list_of_another_length_is_named_or_refused(model: Path) -> None:
    path = write(model.with_name("labels.txt"), [*NAMES, "fox", "bee"])
    labels = find_labels(model, 3, {})
    assert labels.names is None
    assert "5 labels next to it in labels.txt: the model has 3 outputs" in labels.notes[0]
    with pytest.raises(EdgemobileError, match=r"labels.txt has 5 labels, and .*model.tflite has 3 outputs"):
        find_labels(model, 3, {}, path)
    with pytest.raises(EdgemobileError, match=r"cannot read the labels .*none.txt: No such file"):
        find_labels(model, 3, {}, path.with_name("none.txt"))


@pytest.mark.parametrize(
    ("lines", "outputs", "names"),
    [
        ([f"kind {i}" for i in range(1000)], 1001, ("background", *(f"kind {i}" for i in range(1000)))),
        (["background", *NAMES], 4, ("background", *NAMES)),
        (["background", *NAMES], 3, tuple(NAMES)),
        (["0 cat", "1: dog", "2  owl"], 3, tuple(NAMES)),
        (["3 little pigs", "7 dwarfs", "owl"], 3, ("3 little pigs", "7 dwarfs", "owl")),
    ],
)
def test_lists_are_brought_to_the_outputs(model: Path, lines: list[str], outputs: int, names: tuple[str, ...]) -> None:
    assert find_labels(model, outputs, {}, write(model.with_name("list.txt"), lines)).names == names


def test_a_list_one_too_short_is_not_taken_for_one_without_background(model: Path) -> None:
    """Every label but the lost one and those before it would name another class."""
    path = write(model.with_name("labels.txt"), NAMES)
    labels = find_labels(model, 4, {})
    assert (labels.names, "3 labels next to it in labels.txt: the model has 4 outputs" in labels.notes[0]) == (
        None,
        True,
    )
    with pytest.raises(
        EdgemobileError, match=r"has 3 labels, and .* 4 outputs\. Give a list of 4.* must be background$"
    ):
        find_labels(model, 4, {}, path)


def test_background_shifts_the_classes() -> None:
    assert has_background(None, 1001)
    assert not has_background(None, 1000)
    match = match_folders(["0000_n01440764", "0998_n13133613"], None, 1001)
    assert match.indices.tolist() == [1, 999]
    assert "output 0 is background" in match.rule
    assert match_folders(["0000_n01440764", "0998_n13133613"], None, 1000).indices.tolist() == [0, 998]
    assert match_folders(["dog", "owl"], ["background", *NAMES], 4).indices.tolist() == [2, 3]


def test_a_folder_of_backgrounds_is_a_class() -> None:
    assert match_folders(["background", "dog"], ["background", *NAMES], 4).indices.tolist() == [0, 2]


def test_folders_in_order_only_where_nothing_is_known() -> None:
    match = match_folders(["ant", "bee", "cow"], None, 3)
    assert (match.indices.tolist(), "labels unknown" in match.rule) == ([0, 1, 2], True)
    for names, outputs in ((NAMES, 3), (None, 5)):
        with pytest.raises(EdgemobileError, match=r"3 folders \(ant, bee, cow\) match none of the model's classes"):
            match_folders(["ant", "bee", "cow"], names, outputs)


@pytest.mark.parametrize(
    ("folders", "names", "says"),
    [
        (
            ["airplane", "bird", "cat", "dogs"],
            ["airplane", "bird", "cat", "dog"],
            "3 of the data set's 4 folders match the model's classes: 'dogs' is not a class of the model, "
            "nearest: dog. G",
        ),
        (
            ["0_cat", "1_dog", "7_bee"],
            NAMES,
            "2 of the data set's 3 folders .*: '7_bee' is not a class of the model. Give",
        ),
        (
            ["crane", "dog"],
            ["crane", "crane", "dog"],
            "1 of .* 2 folders .*: 'crane' matches 2 classes of the model. Give",
        ),
        (
            ["ox", "cats", "dogs", "owls", "owl"],
            NAMES,
            "1 of .*'ox' is not a class of the model; 'cats' .*; and 1 more. G",
        ),
        (["dev", "train"], NAMES, r"the data set has splits \(train\) beside other folders \(dev\). Give all top"),
    ],
)
def test_folders_that_are_no_class_are_named(folders: list[str], names: list[str], says: str) -> None:
    with pytest.raises(EdgemobileError, match=says):
        match_folders(folders, names, len(names))
