"""`edgemobile adapt`: makes a model smaller for a budget on a device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgemobile.commands.completion import complete_devices, complete_refs, complete_weights
from edgemobile.commands.export import check_model
from edgemobile.commands.sections import SectionedCommand
from edgemobile.commands.writable import check_writable
from edgemobile.printing.adaptation import print_adaptation
from edgemobile.printing.terminal import progress
from edgemobile.util.strict_json import encode, to_json_text

__all__ = ["adapt"]


@click.command(
    cls=SectionedCommand,
    sections={"Budget": "--on", "Images": "--data", "Model": "--weights", "Search": "--steps", "Output": "--out"},
)
@click.argument("model", shell_complete=complete_refs)
@click.option(
    "--on",
    default="emulated:cortex-a72",
    show_default=True,
    metavar="DEVICE,...",
    shell_complete=complete_devices,
    help="Devices that the budget holds on; see `edgemobile devices list`.",
)
@click.option(
    "--budget",
    default="0.6",
    show_default=True,
    metavar="SHARE|MS|COUNT",
    help="Cost of the int8 file: a share of the full net's such as 0.6, a time such as 12ms, or instructions such as "
    "20M-instructions.",
)
@click.option(
    "--unit",
    type=click.Choice(["instructions", "ms"]),
    help="What a share is of. [default: instructions on an emulated core, ms on a board]",
)
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    required=True,
    metavar="DIR|ZIP",
    help="Images in one folder per class. The net is chosen by some of the training split, never by those reported on.",
)
@click.option(
    "--images",
    type=int,
    default=512,
    show_default=True,
    help="Training images to choose by; as many others show what matters and repair the net.",
)
@click.option("--check-images", type=int, default=1000, show_default=True, help="Held-out images to report on.")
@click.option(
    "--weights",
    metavar="bundled|imagenet|random|FILE",
    shell_complete=complete_weights,
    help="Where to start, as for `edgemobile export`. [default: bundled]",
)
@click.option("--res", type=click.IntRange(min=1), help="Input resolution in pixels. [default: the checkpoint's]")
@click.option("--steps", type=int, default=8, show_default=True, help="Steps of the second half of the way.")
@click.option("--candidates", type=int, default=8, show_default=True, help="Changes that are tried in each step.")
@click.option(
    "--epochs", type=int, default=0, show_default=True, help="Passes of training at the end; the full net teaches."
)
@click.option("--batch", type=int, default=64, show_default=True, help="Images of one update of the training.")
@click.option("--lr", type=float, default=3e-4, show_default=True, help="Highest learning rate of the training.")
@click.option(
    "--compare/--no-compare",
    default=True,
    show_default=True,
    help="Beside it, the width multiplier at the same cost, cut and trained the same way.",
)
@click.option("--threads", type=int, default=0, help="Threads of PyTorch. [default: PyTorch's]")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of the choice of images.")
@click.option("--out", type=click.Path(path_type=Path), required=True, metavar="DIR", help="Folder for the checkpoint.")
@click.option("--overwrite", is_flag=True, help="Replace an earlier result in --out.")
@click.option("--resume", is_flag=True, help="Continue an interrupted adaptation in --out, with the same options.")
@click.option(
    "--plot", type=click.Path(path_type=Path), metavar="FILE", help="Draw accuracy over cost: .svg, .png or .pdf."
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on standard output.")
@click.option("-q", "--quiet", is_flag=True, help="Print only the result, no progress.")
def adapt(model: str, on: str, plot: Path | None, as_json: bool, quiet: bool, **options: Any) -> int:
    """Make MODEL smaller until its int8 file costs at most --budget on --on, and write a checkpoint of the smaller net.

    MODEL is a reference model or a checkpoint of one. Which channels, blocks and kernels are left out is found by
    NetAdapt: in each step several changes are tried on images, and the one is taken that loses least for what it saves
    on the device. The checkpoint contains its own architecture, so `edgemobile export`, `eval` and `finetune` read it
    like any other.

    \b
    Examples:
      edgemobile adapt v3-large --data images/ --budget 0.6 --epochs 5 --out smaller
      edgemobile adapt v2 --weights my.pth --data images/ --on emulated:cortex-a72,emulated:cortex-a76 --out smaller
      edgemobile adapt v3-small --data images/ --on pi4 --budget 5ms --out smaller
      edgemobile export smaller/adapted.safetensors --int8 --calib images/
    """
    check_model(model)
    from edgemobile.adaptation.request import AdaptRequest
    from edgemobile.errors import require

    devices = tuple(dict.fromkeys(name.strip() for name in on.split(",") if name.strip()))
    request = AdaptRequest(model=model, on=devices, **options)
    require("torch", "export")
    from edgemobile.adaptation.plot import save_plot
    from edgemobile.adaptation.run import adapt as run
    from edgemobile.util.plot_file import check_plot

    if plot is not None:
        check_plot(plot)
        check_writable("--plot", plot, (options["data"],))

    with progress(quiet=quiet or as_json) as bars:
        result = run(request, bars)
    if as_json:
        print(to_json_text({**encode(result), "checkpoint": str(result.checkpoint)}), end="")
    else:
        print_adaptation(result)
    if plot is not None:
        save_plot(result, plot)
    return 0
