"""An image becomes the array that torchvision's transforms would make of it; the record survives JSON."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError, replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from edgemobile.errors import BrokenImage, EdgemobileError
from edgemobile.pixels import upright_rgb
from edgemobile.preprocess import CIFAR10, IMAGENET, Preprocess, at_resolution


def pixels(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def by_torch(image: np.ndarray, size: tuple[int, int], interpolation: str) -> np.ndarray:
    x = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
    corners = {} if interpolation == "nearest" else {"align_corners": False}
    return torch.nn.functional.interpolate(x, size, mode=interpolation, **corners)[0].permute(1, 2, 0).numpy()


def plain(preprocess: Preprocess) -> Preprocess:
    """Without normalisation: a difference is then in units of pixels from 0 to 1."""
    return replace(preprocess, mean=(0, 0, 0), std=(1, 1, 1))


@pytest.mark.parametrize("case", ["landscape", "odd_crop", "portrait", "upscale"])
@pytest.mark.parametrize(
    ("golden", "interpolation", "antialias"),
    [
        ("pillow_bilinear", "bilinear", True),
        ("pillow_bicubic", "bicubic", True),
        ("tensor_bilinear", "bilinear", False),
    ],
)
def test_equals_torchvision(goldens: Path, case: str, golden: str, interpolation: str, antialias: bool) -> None:
    held = np.load(goldens / f"preprocess_{case}.npz")
    preprocess = Preprocess(
        input_px=int(held["crop"]),
        resize="shorter",
        shorter_px=int(held["resize"]),
        interpolation=interpolation,
        antialias=antialias,
        mean=held["mean"].tolist(),
        std=held["std"].tolist(),
    )
    np.testing.assert_allclose(preprocess(held["image"]), held[golden].transpose(1, 2, 0), atol=1e-6, rtol=0)


@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    input_px=st.integers(1, 40),
    interpolation=st.sampled_from(["nearest", "bilinear", "bicubic"]),
)
@settings(max_examples=150)
def test_without_antialias_it_is_interpolate(height: int, width: int, input_px: int, interpolation: str) -> None:
    preprocess = plain(Preprocess(input_px=input_px, interpolation=interpolation, antialias=False))
    image = pixels(height, width)
    expected = by_torch(image, (input_px, input_px), interpolation)
    np.testing.assert_allclose(preprocess(image), expected, atol=3e-6, rtol=0)


def test_cifar_is_exact_bilinear_to_1e_6() -> None:
    image = pixels(32, 32)
    expected = (by_torch(image, (96, 96), "bilinear") - np.float32(IMAGENET.mean)) / np.float32(IMAGENET.std)
    np.testing.assert_allclose(CIFAR10(image), expected, atol=1e-6, rtol=0)


def test_an_image_of_the_right_size_is_only_scaled() -> None:
    image = pixels(96, 96)
    for antialias in (True, False):
        same = plain(replace(CIFAR10, antialias=antialias))(image)
        np.testing.assert_array_equal(same, image.astype(np.float32) / np.float32(255))


def test_antialias_changes_what_shrinks() -> None:
    image = pixels(128, 128)
    smooth, sharp = (plain(replace(CIFAR10, input_px=32, antialias=antialias))(image) for antialias in (True, False))
    assert smooth.std() < 0.7 * sharp.std()


def test_a_pil_image_and_its_array_are_one() -> None:
    image = pixels(50, 40)
    for preprocess in (at_resolution(IMAGENET, 32), CIFAR10):
        np.testing.assert_array_equal(preprocess(Image.fromarray(image)), preprocess(image))


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1", "LA"])
def test_any_mode_becomes_rgb(mode: str) -> None:
    array = CIFAR10(Image.fromarray(pixels(20, 20)).convert("L" if mode == "LA" else "RGB").convert(mode))
    assert array.shape == (96, 96, 3)
    assert array.dtype == np.float32
    assert np.isfinite(array).all()


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I;16L", "I"])
def test_16_bits_of_grey_keep_their_high_byte(mode: str) -> None:
    grey = np.array([[0, 255, 256], [0x1234, 0x8000, 0xFFFF]], ">u2" if mode == "I;16B" else "<u2")
    data = grey.astype(np.int32) if mode == "I" else grey
    image = upright_rgb(Image.frombytes(mode, (3, 2), data.tobytes()))
    np.testing.assert_array_equal(np.asarray(image), np.stack([(grey >> 8).astype(np.uint8)] * 3, axis=2))


@pytest.mark.parametrize(
    ("image", "says"),
    [
        (Image.fromarray(np.array([[0, 70_000]], np.int32)), r"int32, from 0 to 70000 \(Pillow's mode I\)"),
        (Image.fromarray(np.array([[-1, 7]], np.int32)), r"int32, from -1 to 7"),
        (Image.fromarray(np.array([[0, 1.5]], np.float32)), r"float32, from 0 to 1.5 .*Supported: 8 and 16 bits"),
        (Image.new("RGB", (20_000, 1)), r"20000 x 1 px; the longer side may be at most 100 times"),
    ],
)
def test_what_cannot_be_shown_is_refused(image: Image.Image, says: str) -> None:
    with pytest.raises(BrokenImage, match=says):
        IMAGENET(image)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF"])
def test_a_photo_is_turned_upright_once(sideways: Image.Image, form: str) -> None:
    file = BytesIO()
    sideways.save(file, form, exif=sideways.getexif())
    upright = upright_rgb(Image.open(file))
    assert upright.size == (10, 20)
    top, bottom = upright.getpixel((5, 2)), upright.getpixel((5, 17))
    assert (top, bottom) == ((255, 255, 255), (0, 0, 0))
    np.testing.assert_array_equal(CIFAR10(Image.open(file)), CIFAR10(upright))


@pytest.mark.parametrize(("input_px", "shorter_px"), [(224, 256), (192, 219), (128, 146), (96, 110)])
def test_at_resolution_keeps_the_crop_s_share(input_px: int, shorter_px: int) -> None:
    there = at_resolution(IMAGENET, input_px)
    assert (there.input_px, there.shorter_px) == (input_px, shorter_px)
    assert at_resolution(CIFAR10, 64) == replace(CIFAR10, input_px=64)


def test_round_trips_through_json() -> None:
    for preprocess in (IMAGENET, CIFAR10, replace(IMAGENET, interpolation="bicubic")):
        assert Preprocess.from_json(preprocess.to_json()) == preprocess
        assert Preprocess.from_json(json.dumps(preprocess.to_json())) == preprocess
        assert hash(Preprocess.from_json(json.loads(json.dumps(preprocess.to_json())))) == hash(preprocess)
    with pytest.raises(FrozenInstanceError):
        IMAGENET.input_px = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"version": 2}, "version 2"),
        ({"version": None}, "version None"),
        ({"gamma": 2.2}, "gamma"),
        ({"input_px": 0}, "input_px"),
        ({"input_px": "64"}, "input_px"),
        ({"input_px": True}, "input_px"),
        ({"resize": "stretch"}, "exact, shorter"),
        ({"resize": "shorter", "shorter_px": 8}, "at least 96"),
        ({"resize": "shorter", "shorter_px": None}, "shorter_px"),
        ({"shorter_px": 80}, "shorter_px"),
        ({"interpolation": "lanczos"}, "nearest, bilinear, bicubic"),
        ({"antialias": "no"}, "antialias"),
        ({"mean": [0.5, 0.5]}, "three numbers"),
        ({"mean": "abc"}, "three numbers"),
        ({"std": [0.2, 0.2, 0]}, "above 0"),
        ({"std": [0.2, 0.2, float("nan")]}, "finite"),
        ({"mean": [10**400, 0, 0]}, "mean must be finite"),
        ({"mean": [1e39, 0, 0]}, "mean must be finite"),
        ({"std": [1e-60, 1, 1]}, "std must be above 0"),
        ({"version": True}, "version True"),
        ({"input_px": 100_000}, "at most 8192"),
        ({"resize": "shorter", "shorter_px": 100_000}, "at most 8192"),
    ],
)
def test_a_bad_record_is_refused_in_one_line(change: dict, says: str) -> None:
    with pytest.raises(EdgemobileError, match=says) as caught:
        Preprocess.from_json({**CIFAR10.to_json(), **change})
    assert "\n" not in str(caught.value)


def test_an_image_that_would_fill_the_memory_is_named() -> None:
    with pytest.raises(BrokenImage, match="819200 x 8192 px"):
        Preprocess(224, resize="shorter", shorter_px=8192)(np.zeros((1, 100, 3), np.uint8))


@pytest.mark.parametrize("text", ["", "[]", "3", "{", "{}", "[" * 100_000, '{"version": 1, "version": 1}'])
def test_what_is_no_record_is_refused(text: str) -> None:
    with pytest.raises(EdgemobileError, match="preprocess"):
        Preprocess.from_json(text)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((8, 8), np.uint8),
        np.zeros((8, 8, 3), np.float32),
        np.zeros((3, 8, 8), np.uint8),
        np.zeros((0, 8, 3), np.uint8),
        "photo.jpg",
    ],
)
def test_what_is_no_image_is_refused(image: object) -> None:
    with pytest.raises(EdgemobileError, match=r"u8\[H,W,3\]"):
        CIFAR10(image)  # type: ignore[arg-type]
