"""Options shared by several commands, in groups: `@MODEL`, `@IMAGES` and so on above a command."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from edgemobile.commands.completion import (
    complete_formats,
    complete_models,
    complete_preprocess,
    complete_recipes,
    complete_weights,
)
from edgemobile.quant.targets import DEFAULT_TARGET, TARGETS

__all__ = [
    "CLASSIFIER",
    "FOR_CI",
    "IMAGES",
    "INT8",
    "MODEL",
    "OUTPUT",
    "RESULTS",
    "formats_option",
    "given_options",
    "option_group",
]


class _List(click.ParamType):
    """A comma-separated list."""

    name = "list"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        return value if isinstance(value, tuple) else tuple(item.strip() for item in value.split(",") if item.strip())


def option_group(*options: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Several click options as one decorator, in the order written."""

    def decorate(function: Any) -> Any:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


def _labels(default: str) -> Callable[[Any], Any]:
    what = "Class names, one per line, in the order of the outputs."
    return click.option(
        "--labels", type=click.Path(path_type=Path), metavar="FILE", help=f"{what} [default: {default}]"
    )


def _preprocess(default: str) -> Callable[[Any], Any]:
    names = "imagenet, inception (-1 to 1), unit (0 to 1), raw (pixels as they are), JSON, or a file of JSON."
    return click.option(
        "--preprocess", metavar="NAME|JSON", shell_complete=complete_preprocess, help=f"{names} [default: {default}]"
    )


def formats_option(default: str) -> Callable[[Any], Any]:
    """--to, which is `formats` in Python."""
    return click.option(
        "--to",
        "formats",
        type=_List(),
        metavar="onnx,tflite",
        shell_complete=complete_formats,
        help=f"Formats. [default: {default}]",
    )


RESULTS = click.option(
    "--results",
    "results_store",
    type=click.Path(path_type=Path),
    metavar="FILE.jsonl",
    help="Append the figures to a results store; see `edgemobile results`.",
)

MODEL = option_group(
    click.option(
        "--weights",
        metavar="bundled|imagenet|random|FILE",
        shell_complete=complete_weights,
        help="bundled: the checkpoint in the package; imagenet: torchvision's; random: untrained weights (a factory's "
        "own); or a .pt, .pth or .safetensors file with torchvision's or timm's keys, or a .tflite file of the model. "
        "[default: bundled, or those your own model comes with]",
    ),
    click.option("--width", type=float, help="Width multiplier. [default: the checkpoint's]"),
    click.option("--res", type=click.IntRange(min=1), help="Input resolution in pixels. [default: the checkpoint's]"),
    click.option("--classes", type=int, help="Number of classes. [default: the checkpoint's]"),
    _labels("the checkpoint's"),
    _preprocess("the checkpoint's, else ImageNet's"),
    click.option("--batch", type=int, default=1, show_default=True, help="Batch size of the files."),
    click.option(
        "--keep-dead",
        is_flag=True,
        help="Keep channels that no output depends on. [default: remove them: the same outputs, a smaller file]",
    ),
)

IMAGES = option_group(
    click.option(
        "--calib",
        type=click.Path(path_type=Path),
        metavar="DIR|ZIP",
        help="ImageFolder to calibrate int8 and to check the files on. [default: for int8 images synthesized from "
        "the model, or stored ones for the bundled weights; low-frequency noise for float]",
    ),
    click.option("--calib-images", type=int, default=128, show_default=True, help="Images to calibrate on."),
    click.option(
        "--unchecked-calib",
        is_flag=True,
        help="Calibrate even on images that look wrong, such as noise or images that are not normalized.",
    ),
    click.option("--check-images", type=int, default=200, show_default=True, help="Images to check the files on."),
)

CLASSIFIER = option_group(
    click.option(
        "--arch",
        metavar="NAME",
        shell_complete=complete_models,
        help="The reference model of a checkpoint (see `edgemobile models`). [default: found from its shapes]",
    ),
    click.option(
        "--res", type=click.IntRange(min=1), help="Resolution of a model that takes any. [default: the model's]"
    ),
    _preprocess("the file's, else the usual one for such an input"),
    _labels("in the file, or labels.txt beside it"),
)

INT8 = option_group(
    click.option(
        "--recipe",
        metavar="NAME|FILE",
        shell_complete=complete_recipes,
        help="How to quantize: default, few-images, best (tries changes on held-out images, minutes), "
        "best-mixed (also the first two layers in float), adaround, per-tensor, minmax, plain, or a .json file. "
        "[default: default, or few-images for fewer than 100 images or synthetic ones]",
    ),
    click.option(
        "--minutes",
        type=float,
        metavar="N",
        help="With --recipe best: after so many minutes no further change is tried. [default: 10]",
    ),
    click.option(
        "--hswish",
        type=click.Choice(["auto", "delegated", "fused", "relu"]),
        default="auto",
        show_default=True,
        help="How int8 files express hard-swish: ops that every delegate accepts, one HARD_SWISH op, or ReLU instead; "
        "auto follows --target.",
    ),
    click.option(
        "--target",
        type=click.Choice(list(TARGETS)),
        default=DEFAULT_TARGET,
        show_default=True,
        help="Where int8 will run decides how hard-swish is written and ONNX stores weights. arm is right for x86 "
        "with VNNI too, where x86-vnni is a little faster; cpu is right on every CPU, x86 without VNNI included, and "
        "slower. The manifest says why.",
    ),
    click.option(
        "--keep-float", multiple=True, metavar="PATTERN", help="Layers to keep in float, by name: 'features.16.*'."
    ),
    click.option(
        "--max-drop",
        type=float,
        metavar="POINTS",
        help="Exit 1 when int8 loses more points of top-1 than this (without labels: differs on more images per 100).",
    ),
    click.option(
        "--search", is_flag=True, help="Keep the layers with the highest cost in float until --max-drop is met."
    ),
)

OUTPUT = option_group(
    click.option("--out", type=click.Path(path_type=Path), help="Folder to write. [default: ./MODEL]"),
    click.option("--overwrite", is_flag=True, help="Replace the folder of an earlier export."),
    click.option("--threads", type=int, default=1, show_default=True, help="Threads of the latency column."),
    click.option(
        "--seed",
        type=click.IntRange(0),
        default=0,
        show_default=True,
        help="Seed of random weights, samples and synthesized images.",
    ),
    click.option("--json", "as_json", is_flag=True, help="Print the manifest as JSON on standard output."),
    click.option("-q", "--quiet", is_flag=True, help="Print only the result, no progress."),
    click.option("-v", "--verbose", is_flag=True, help="Print more: notes of every step, op counts of every file."),
)

FOR_CI = option_group(
    click.option("--junit", type=click.Path(path_type=Path), metavar="FILE", help="Write JUnit XML."),
    click.option("--github-summary", is_flag=True, help="Append markdown to $GITHUB_STEP_SUMMARY, or print it."),
)


def given_options() -> tuple[str, ...]:
    """The options given on the command line, without defaults from edgemobile.toml or the environment."""
    context = click.get_current_context()
    return tuple(name for name in context.params if context.get_parameter_source(name) is ParameterSource.COMMANDLINE)
