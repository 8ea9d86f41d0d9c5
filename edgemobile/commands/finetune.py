"""`edgemobile finetune`: trains a model on the user's images, in float and for int8."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgemobile.commands.completion import complete_preprocess, complete_refs, complete_weights
from edgemobile.commands.export import check_model
from edgemobile.commands.sections import SectionedCommand
from edgemobile.printing.terminal import progress
from edgemobile.printing.training import print_training
from edgemobile.util.strict_json import to_json_text

if TYPE_CHECKING:
    pass

__all__ = ["finetune"]


@click.command(
    cls=SectionedCommand,
    sections={"Images": "--data", "Model": "--weights", "Training": "--int8", "Output": "--out"},
)
@click.argument("model", shell_complete=complete_refs)
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    required=True,
    metavar="DIR|ZIP",
    help="Images in one folder per class. Without splits, a tenth is held out to measure the result on.",
)
@click.option("--check-images", type=int, default=1000, show_default=True, help="Held-out images to measure on.")
@click.option("--calib-images", type=int, default=512, show_default=True, help="Images to calibrate int8 on.")
@click.option(
    "--weights",
    metavar="bundled|imagenet|random|FILE",
    shell_complete=complete_weights,
    help="Where to start, as for `edgemobile export`. [default: bundled, or those your own model comes with]",
)
@click.option("--width", type=float, help="Width multiplier. [default: the checkpoint's]")
@click.option("--res", type=click.IntRange(min=1), help="Input resolution in pixels. [default: the checkpoint's]")
@click.option(
    "--preprocess",
    metavar="NAME|JSON",
    shell_complete=complete_preprocess,
    help="As for `edgemobile export`. [default: the checkpoint's, else ImageNet's]",
)
@click.option("--int8", is_flag=True, help="Train the integers of the int8 files too.")
@click.option(
    "--epochs", type=int, default=3, show_default=True, help="Passes over the images: of int8 training with --int8."
)
@click.option("--float-epochs", type=int, default=0, show_default=True, help="Passes in float before those of --int8.")
@click.option("--batch", type=int, default=64, show_default=True, help="Images of one update.")
@click.option("--lr", type=float, default=3e-4, show_default=True, help="Highest learning rate in float.")
@click.option(
    "--int8-lr", type=float, default=0.004, show_default=True, help="The same for int8, in integer steps per update."
)
@click.option(
    "--teacher",
    metavar="MODEL|FILE",
    shell_complete=complete_refs,
    help="Learn from this net's answers too. [default: int8 learns from the float net]",
)
@click.option(
    "--teacher-share",
    type=float,
    metavar="0-1",
    help="Weight of these answers in the loss; labels have the rest. [default: 0.7 with --teacher, else 1]",
)
@click.option("--threads", type=int, default=0, help="Threads of PyTorch. [default: PyTorch's]")
@click.option(
    "--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of the order, the crops and a new layer."
)
@click.option("--out", type=click.Path(path_type=Path), required=True, metavar="DIR", help="Folder for the checkpoint.")
@click.option("--overwrite", is_flag=True, help="Replace an earlier result in --out.")
@click.option("--resume", is_flag=True, help="Continue an interrupted training in --out, with the same options.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on standard output.")
@click.option("-q", "--quiet", is_flag=True, help="Print only the result, no progress.")
def finetune(model: str, as_json: bool, quiet: bool, **options: Any) -> int:
    """Train MODEL on your images and write a checkpoint that `edgemobile export` reads without further options.

    MODEL is a reference model, a checkpoint of one, or `package.module:factory`. If the folders of --data are other
    classes than the model's, its last layer is replaced. --int8 trains the integers of the int8 files, with the scales
    of calibration, and `edgemobile export --int8` writes exactly these.

    \b
    Examples:
      edgemobile finetune v3-small --weights my.pth --data images/ --int8 --epochs 3 --out tuned
      edgemobile finetune v2 --weights imagenet --data images/ --epochs 10 --out tuned
      edgemobile export tuned/v3-small.safetensors --int8
    """
    check_model(model)
    from edgemobile.errors import require
    from edgemobile.training.request import FinetuneRequest

    request = FinetuneRequest(model=model, **options)
    require("torch", "export")
    from edgemobile.training.run import finetune as run

    with progress(quiet=quiet or as_json) as bars:
        result = run(request, bars)
    if as_json:
        print(to_json_text({**asdict(result), "checkpoint": str(result.checkpoint)}), end="")
    else:
        print_training(result)
    return 0
