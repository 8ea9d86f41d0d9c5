"""An ImageFolder is one in a directory or a zip; nothing in it reaches outside, breaks a run or is lost unsaid."""

from __future__ import annotations

import zipfile
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgemobile.errors import EdgemobileError
from edgemobile.images.dataset import BrokenImage, match_classes, open_dataset
from edgemobile.preprocess import IMAGENET, Preprocess

PREPROCESS = Preprocess(input_px=4, antialias=False, mean=(0, 0, 0), std=(1, 1, 1))
TREE = {
    "train/cat/1.png": 10,
    "train/cat/2.png": 20,
    "train/dog/1.png": 30,
    "test/dog/9.png": 40,
    "test/emu/7.png": 50,
}


def png(value: int) -> bytes:
    """A 4x4 image of one grey value."""
    buffer = BytesIO()
    Image.new("RGB", (4, 4), (value, value, value)).save(buffer, "PNG")
    return buffer.getvalue()


def store(where: Path, files: dict[str, int | bytes], kind: str) -> Path:
    """The files (a grey value or raw bytes each) as a directory or a zip."""
    content = {name: png(value) if isinstance(value, int) else value for name, value in files.items()}
    if kind == "zip":
        with zipfile.ZipFile(where / "set.zip", "w") as archive:
            for name, data in content.items():
                archive.writestr(name, data)
        return where / "set.zip"
    for name, data in content.items():
        file = where / "set" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    return where / "set"


@pytest.fixture(params=["directory", "zip"])
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


def value(image: Image.Image) -> int:
    return int(np.asarray(image)[0, 0, 0])


def test_splits_share_their_classes(tmp_path: Path, kind: str) -> None:
    path = store(tmp_path, TREE, kind)
    whole, train, test = open_dataset(path), open_dataset(path, "train"), open_dataset(path, "test")
    assert whole.splits == train.splits == ("train", "test")
    assert (len(whole), len(train), len(test)) == (5, 3, 2)
    assert whole.classes == train.classes == test.classes == ("cat", "dog", "emu")
    assert train.labels is not None
    assert train.labels.tolist() == [0, 0, 1]
    assert test.labels is not None
    assert test.labels.tolist() == [1, 2]
    assert [value(test.load(i)) for i in range(2)] == [40, 50]
    assert test.name(1) == "test/emu/7.png"


@pytest.mark.parametrize("wrapper", ["photos", "a/b", "photos.v2"])
def test_a_wrapping_folder_is_no_class(tmp_path: Path, kind: str, wrapper: str) -> None:
    wrapped = open_dataset(store(tmp_path, {f"{wrapper}/{name}": grey for name, grey in TREE.items()}, kind), "test")
    assert wrapped.classes == ("cat", "dog", "emu")
    assert wrapped.splits == ("train", "test")


def test_only_one_split(tmp_path: Path, kind: str) -> None:
    only = open_dataset(store(tmp_path, {"val/cat/1.png": 1, "val/dog/1.png": 2}, kind))
    assert (only.splits, only.classes) == (("val",), ("cat", "dog"))


@pytest.mark.parametrize("check", ["valid", "eval", "Validation"])
def test_a_split_has_one_of_several_names(tmp_path: Path, kind: str, check: str) -> None:
    held = open_dataset(store(tmp_path, {"train/cat/1.png": 1, f"{check}/dog/1.png": 2}, kind), check.lower())
    assert (held.splits, held.classes) == (("train", check.lower()), ("cat", "dog"))
    assert held.names == (f"{check}/dog/1.png",)


def test_classes_named_like_a_split_are_classes(tmp_path: Path, kind: str) -> None:
    vehicles = open_dataset(store(tmp_path, {"train/1.png": 1, "plane/1.png": 2}, kind))
    assert (vehicles.splits, vehicles.classes) == ((), ("plane", "train"))


def test_images_without_class_folders_have_no_labels(tmp_path: Path, kind: str) -> None:
    flat = open_dataset(store(tmp_path, {"2.png": 2, "1.PNG": 1}, kind))
    assert flat.labels is None
    assert flat.classes == ()
    assert [value(flat.load(i)) for i in range(2)] == [1, 2]


def test_what_is_no_image_is_ignored_and_what_is_left_out_is_said(tmp_path: Path, kind: str) -> None:
    files = {
        "cat/1.png": 1,
        "dog/1.png": 2,
        "dog/readme.txt": b"",
        "__MACOSX/cat/._1.png": b"",
        ".cache/x/1.png": 3,
        "cat/.hidden.png": 4,
        "preview.png": 5,
    }
    held = open_dataset(store(tmp_path, files, kind))
    assert held.names == ("cat/1.png", "dog/1.png")
    assert held.skipped == (("preview.png", "it is not in a class folder"),)


def test_hostile_names_in_a_zip_are_left_out_and_said(tmp_path: Path) -> None:
    hostile = {
        "../../etc/cat/1.png": 1,
        "/etc/cat/2.png": 2,
        "..\\cat\\3.png": 3,
        "C:\\cat\\4.png": 4,
        "a/../../5.png": 5,
    }
    held = open_dataset(store(tmp_path, {**hostile, "cat/1.png": 6, "dog/1.png": 7}, "zip"))
    assert held.names == ("cat/1.png", "dog/1.png")
    assert {name for name, _ in held.skipped} == set(hostile)
    assert sorted(file.name for file in tmp_path.rglob("*")) == ["set.zip"]


def test_a_loop_of_links_ends(tmp_path: Path) -> None:
    path = store(tmp_path, {"cat/1.png": 1, "dog/1.png": 2}, "directory")
    (path / "cat" / "up").symlink_to(path)
    assert len(open_dataset(path)) == 2


def test_a_linked_class_folder_counts(tmp_path: Path) -> None:
    path = store(tmp_path, {"cat/1.png": 1}, "directory")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "1.png").write_bytes(png(9))
    (path / "dog").symlink_to(tmp_path / "elsewhere")
    assert open_dataset(path).names == ("cat/1.png", "dog/1.png")


@pytest.mark.parametrize(
    ("files", "split", "says"),
    [({"a/notes.txt": b""}, None, "no images"), ({}, None, "no images"), (TREE, "val", "It has: train, test")],
)
def test_nothing_to_read_is_one_line(
    tmp_path: Path, kind: str, files: dict[str, int | bytes], split: str | None, says: str
) -> None:
    (tmp_path / "set").mkdir()
    with pytest.raises(EdgemobileError, match=says) as caught:
        open_dataset(store(tmp_path, files, kind), split)
    assert "\n" not in str(caught.value)


def test_no_split_in_a_set_without_splits(tmp_path: Path, kind: str) -> None:
    with pytest.raises(EdgemobileError, match="It has: none"):
        open_dataset(store(tmp_path, {"cat/1.png": 1}, kind), "train")


def test_what_is_no_data_set_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.zip").write_text("not a zip")
    with pytest.raises(EdgemobileError, match="neither a folder nor a readable zip"):
        open_dataset(tmp_path / "notes.zip")
    with pytest.raises(EdgemobileError, match="does not exist"):
        open_dataset(tmp_path / "nowhere")


def test_a_truncated_zip_is_refused(tmp_path: Path) -> None:
    path = store(tmp_path, TREE, "zip")
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(EdgemobileError, match="zip"):
        open_dataset(path)


@pytest.mark.parametrize("broken", [b"", b"junk", png(3)[:-30], png(3)[:20], b"GIF89a"])
def test_a_broken_image_is_named_and_the_batch_goes_on(tmp_path: Path, kind: str, broken: bytes) -> None:
    held = open_dataset(store(tmp_path, {"cat/1.png": 255, "cat/2.png": broken, "dog/1.png": 0}, kind))
    with pytest.raises(BrokenImage, match=r"cat/2\.png") as caught:
        held.load(1)
    assert "\n" not in str(caught.value)
    assert "BytesIO" not in str(caught.value)
    images, skipped = held.load_batch(np.arange(3), PREPROCESS)
    assert images.shape == (2, 4, 4, 3)
    assert images.dtype == np.float32
    assert images[:, 0, 0, 0].tolist() == [1, 0]
    assert [name for name, _ in skipped] == ["cat/2.png"]
    assert skipped[0][1]


def encoded(image: Image.Image, form: str, **options: Any) -> bytes:
    buffer = BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def test_what_cannot_be_shown_is_named_and_the_batch_goes_on(tmp_path: Path, kind: str) -> None:
    files: dict[str, int | bytes] = {
        "a/depth.tif": encoded(Image.fromarray(np.full((4, 4), 0.5, np.float32)), "TIFF"),
        "a/good.png": 255,
        "a/strip.png": encoded(Image.new("L", (20_000, 1)), "PNG"),
    }
    images, skipped = open_dataset(store(tmp_path, files, kind)).load_batch(range(3), IMAGENET)
    assert images.shape == (1, 224, 224, 3)
    assert [name for name, _ in skipped] == ["a/depth.tif", "a/strip.png"]
    assert "8 and 16 bits per channel" in skipped[0][1]
    assert skipped[1][1].startswith("it is 20000 x 1 px")


def test_16_bits_of_grey_keep_their_grey(tmp_path: Path, kind: str) -> None:
    ramp = Image.fromarray(np.arange(16, dtype=np.uint16).reshape(4, 4) * 0x1111)
    files: dict[str, int | bytes] = {"a/1.png": encoded(ramp, "PNG"), "a/2.tif": encoded(ramp, "TIFF")}
    held = open_dataset(store(tmp_path, files, kind))
    for index in range(2):
        assert np.asarray(held.load(index))[..., 0].ravel().tolist() == [0x11 * i for i in range(16)]


def test_photos_are_turned_upright(tmp_path: Path, kind: str, sideways: Image.Image) -> None:
    data = encoded(sideways, "JPEG", exif=sideways.getexif(), quality=95)
    upright = open_dataset(store(tmp_path, {"a/1.jpg": data}, kind)).load(0)
    assert upright.size == (10, 20)
    assert value(upright) > 250 > 5 > np.asarray(upright)[-1, -1, 0]


def test_damaged_bytes_in_a_zip_are_a_broken_image(tmp_path: Path) -> None:
    path = store(tmp_path, {"cat/1.png": 1, "dog/1.png": 2}, "zip")
    data = path.read_bytes()
    at = data.index(png(2)) + 50
    path.write_bytes(data[:at] + b"\xff" + data[at + 1 :])
    held = open_dataset(path)
    assert value(held.load(0)) == 1
    with pytest.raises(BrokenImage, match="CRC"):
        held.load(1)


def test_an_image_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = open_dataset(store(tmp_path, {"cat/1.png": 1}, "zip"))
    monkeypatch.setattr("edgemobile.images.dataset._MAX_BYTES", 10)
    with pytest.raises(BrokenImage, match="MiB"):
        held.load(0)


def test_an_empty_batch_has_its_shape(tmp_path: Path, kind: str) -> None:
    images, skipped = open_dataset(store(tmp_path, TREE, kind)).load_batch([], PREPROCESS)
    assert images.shape == (0, 4, 4, 3)
    assert skipped == []


def test_a_sample_is_random_seeded_and_without_repeats(tmp_path: Path) -> None:
    files: dict[str, int | bytes] = {f"{name}/{i:03}.png": b"" for name in ("cat", "dog") for i in range(100)}
    held = open_dataset(store(tmp_path, files, "zip"))
    assert held.labels is not None
    drawn = held.sample(40, seed=1)
    assert len(set(drawn.tolist())) == 40
    assert 8 < held.labels[drawn].sum() < 32
    np.testing.assert_array_equal(drawn, held.sample(40, seed=1))
    assert drawn.tolist() != held.sample(40, seed=2).tolist()
    assert sorted(held.sample(1000).tolist()) == list(range(200))
    with pytest.raises(EdgemobileError, match="at least 1"):
        held.sample(0)


def test_threads_share_a_zip(tmp_path: Path) -> None:
    held = open_dataset(store(tmp_path, {f"cat/{i:03}.png": i for i in range(200)}, "zip"))
    with ThreadPoolExecutor(8) as pool:
        assert [value(image) for image in pool.map(held.load, range(200))] == list(range(200))


@pytest.mark.parametrize(
    ("folders", "labels", "indices", "rule"),
    [
        (["cat", "dog"], ["dog", "emu", "cat"], [2, 0], "labels"),
        (["Tabby_Cat", "great-dane"], ["great dane", "tabby cat"], [1, 0], "labels"),
        (["tench", "Carassius auratus"], ["tench, Tinca tinca", "goldfish, Carassius auratus"], [0, 1], "labels"),
        (["goldfish", "missile"], ["projectile, missile", "goldfish, Carassius auratus", "missile"], [1, 2], "labels"),
        (["harp", "mouth harp"], ["harmonica, harp, mouth harp", "harp"], [1, 0], "labels"),
        (["polecat", "skunk"], ["polecat, fitch", "skunk, polecat"], [0, 1], "labels"),
        (["0001_n014", "0000_n013"], ["a", "b"], [1, 0], "begin with the class index"),
        (["0000_n014", "0002_n013"], 3, [0, 2], "begin with the class index"),
        (["0", "2", "10"], [f"c{i}" for i in range(11)], [0, 2, 10], "class indices"),
        (["2", "0"], 3, [2, 0], "labels"),
        (["n00000002", "n00000007"], ["a", "b"], [0, 1], "WordNet"),
    ],
)
def test_folders_find_their_class(folders: list[str], labels: list[str] | int, indices: list[int], rule: str) -> None:
    match = match_classes(folders, labels)
    assert match is not None
    assert match.indices.tolist() == indices
    assert rule in match.rule


@pytest.mark.parametrize(
    ("folders", "labels"),
    [
        (["cat", "dog"], ["cat", "emu"]),
        (["0000_a", "0005_b"], ["a", "b"]),
        (["n00000002"], ["a", "b"]),
        (["crane", "dog"], ["crane", "crane", "dog"]),
        ([], ["a"]),
        (["a"], []),
    ],
)
def test_folders_that_do_not_all_match_are_not_guessed(folders: list[str], labels: list[str]) -> None:
    assert match_classes(folders, labels) is None


def test_the_real_sets(shared_data: Path) -> None:
    cifar = open_dataset(shared_data / "cifar10.zip", "test")
    assert (len(cifar), len(cifar.classes), cifar.splits) == (10_000, 10, ("train", "test"))
    assert cifar.labels is not None
    assert np.bincount(cifar.labels).tolist() == [1000] * 10
    assert len(set(cifar.labels[cifar.sample(100)])) == 10
    sample = open_dataset(shared_data / "imagenet-sample.zip")
    match = match_classes(sample.classes, 1000)
    assert match is not None
    assert match.indices.tolist() == list(range(0, 1000, 2))
