"""Preprocessing for a file that does not state it: by name, from JSON, or guessed from its input.

To add a preset: a row in PRESETS.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from edgemobile.devices.runtimes.sessions import Port
from edgemobile.errors import EdgemobileError
from edgemobile.model_file.model_file import ModelFile
from edgemobile.preprocess import IMAGENET, Channels, Preprocess, at_resolution
from edgemobile.util.strict_json import loads

__all__ = [
    "ASSUMED",
    "PRESETS",
    "chosen_preprocess",
    "default_preprocess",
    "described",
    "says_resolution",
    "stated_normalisation",
]

# The first words of a guess's description.
ASSUMED = "assumed"

_IDENTITY = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
# Models with smaller inputs than this were trained on whole images, without a crop.
_CROPPED_FROM_PX = 96


def _raw(port: Port) -> tuple[Channels, Channels]:
    """The mean and standard deviation with which quantizing returns the pixel itself, or the pixel - 128 for int8.

    real = scale * (q - zero_point) with q = px - offset; Preprocess computes (px / 255 - mean) / std.
    """
    scale, zero_point = (1.0, 0) if port.scale is None else (port.scale, port.zero_point or 0)
    offset = 128 if port.dtype == "int8" else 0
    mean, std = (zero_point + offset) / 255, 1 / (255 * scale)
    return (mean,) * 3, (std,) * 3


# name -> (mean, std) for an input, on pixels from 0 to 1
PRESETS: dict[str, Callable[[Port], tuple[Channels, Channels]]] = {
    "imagenet": lambda port: (IMAGENET.mean, IMAGENET.std),
    "inception": lambda port: ((0.5,) * 3, (0.5,) * 3),
    "unit": lambda port: ((0.0,) * 3, (1.0,) * 3),
    "raw": _raw,
}
_WORDS = {
    "imagenet": "ImageNet's mean and standard deviation",
    "inception": "pixels from -1 to 1",
    "unit": "pixels from 0 to 1",
    "raw": "raw pixels",
}


def default_preprocess(
    port: Port, input_px: int, stated: tuple[Channels, Channels] | None = None
) -> tuple[Preprocess, str]:
    """(the usual preprocessing of files with such an input, its description).

    `stated` is the (mean, std) on pixels from 0 to 255 of TFLite's official metadata. Integer inputs whose metadata has
    0 and 1 there are not normalized: they take raw pixels.
    """
    integer = port.dtype in ("uint8", "int8")
    if stated and not (integer and stated == _IDENTITY):
        mean, std = ((red / 255, green / 255, blue / 255) for red, green, blue in stated)
        return _of_size(input_px, mean, std), "mean and std in its TFLite metadata"
    if integer:
        name, because = "raw", f"the input is {port.dtype}"
    elif port.layout == "NCHW":
        name, because = "imagenet", "the input is float NCHW, as in PyTorch"
    else:
        name, because = "inception", "the input is float NHWC, as in TensorFlow"
    return _preset(name, port, input_px), f"{ASSUMED} {_WORDS[name]}: the file does not state it, and {because}"


def stated_normalisation(file: ModelFile) -> tuple[Channels, Channels] | None:
    """(mean, std) on pixels from 0 to 255 in TFLite's official metadata, which most third-party files have."""
    if file.format != "tflite":
        return None
    from edgemobile.exporters.tflite_file import read_normalisation

    return read_normalisation(file.data)


def chosen_preprocess(text: str, port: Port, input_px: int | None, usual_px: int) -> tuple[Preprocess, str]:
    """(the preprocessing `text`, its description). It is a name in PRESETS, JSON, or a JSON file.

    `input_px` is the model's resolution. If the model takes any (None), JSON may contain one, else it is `usual_px`.
    JSON may also omit the version. Raises EdgemobileError.
    """
    if text in PRESETS:
        return _preset(text, port, input_px or usual_px), f"--preprocess {text}, {_WORDS[text]}"
    record, source = _record(text)
    preprocess = Preprocess.from_json({"version": 1, "input_px": input_px or usual_px, **record})
    return at_resolution(preprocess, input_px or preprocess.input_px), f"--preprocess {source}"


def says_resolution(text: str) -> bool:
    """Whether a --preprocess contains the resolution, as only JSON can. Raises like `chosen_preprocess`."""
    return text not in PRESETS and "input_px" in _record(text)[0]


def described(preprocess: Preprocess) -> str:
    """A preprocessing as one line."""
    px = preprocess.input_px
    if preprocess.shorter_px is None:
        size = f"resized to {px} px"
    else:
        size = f"shorter side to {preprocess.shorter_px} px, the centre {px}"
    mean, std = (
        f"{values[0]:.4g}" if len(set(values)) == 1 else ", ".join(f"{value:.4g}" for value in values)
        for values in (preprocess.mean, preprocess.std)
    )
    smooth = ", antialiased" if preprocess.antialias else ""
    return f"{size} ({preprocess.interpolation}{smooth}), mean {mean}, std {std}"


def _preset(name: str, port: Port, input_px: int) -> Preprocess:
    return _of_size(input_px, *PRESETS[name](port))


def _of_size(input_px: int, mean: Channels, std: Channels) -> Preprocess:
    if input_px < _CROPPED_FROM_PX:
        return Preprocess(input_px, mean=mean, std=std)
    # The ImageNet convention of every library: the central 0.875 of the image.
    return Preprocess(input_px, resize="shorter", shorter_px=round(input_px / 0.875), mean=mean, std=std)


def _record(text: str) -> tuple[dict[str, object], str]:
    """(the JSON object in `text` or in the file it names, what to call it)."""
    inline = text.lstrip().startswith("{")
    source = "JSON" if inline else text
    try:
        record = loads(text if inline else Path(text).read_text(encoding="utf-8"))
    except OSError as error:
        raise EdgemobileError(
            f"preprocess {text!r} is neither a known name nor a readable file ({error.strerror}). "
            f"Allowed: {', '.join(PRESETS)}, JSON, or a file of JSON"
        ) from error
    except ValueError as error:
        raise EdgemobileError(f"preprocess {source} is not JSON: {error}") from error
    # A checkpoint's FILE.json and a manifest contain the record under this name.
    inner = record.get("preprocess", record) if isinstance(record, dict) else record
    if not isinstance(inner, dict):
        raise EdgemobileError(f"preprocess {source} must be a JSON object, found {type(inner).__name__}")
    return inner, source
