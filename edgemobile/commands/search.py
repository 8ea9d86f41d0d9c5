"""`edgemobile search`: nets for a device, from cheap to accurate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgemobile.commands.completion import complete_devices, complete_refs, complete_weights
from edgemobile.commands.export import check_model
from edgemobile.commands.sections import SectionedCommand
from edgemobile.commands.writable import check_writable
from edgemobile.printing.search import print_search
from edgemobile.printing.terminal import progress
from edgemobile.util.strict_json import encode, to_json_text

__all__ = ["search"]


@click.command(
    cls=SectionedCommand,
    sections={"Cost": "--on", "Images": "--data", "Model": "--weights", "Search": "--trials", "Output": "--out"},
)
@click.argument("model", shell_complete=complete_refs)
@click.option(
    "--on",
    default="emulated:cortex-a72",
    show_default=True,
    metavar="DEVICE",
    shell_complete=complete_devices,
    help="Device that nets are measured on; see `edgemobile devices list`.",
)
@click.option(
    "--unit",
    type=click.Choice(["instructions", "ms"]),
    help="What is measured. [default: instructions on an emulated core, ms on a board]",
)
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    required=True,
    metavar="DIR|ZIP",
    help="Images in one folder per class. Nets are trained and chosen by the training split, and reported on others.",
)
@click.option("--train-images", type=int, default=2000, show_default=True, help="Images that each net is trained on.")
@click.option("--images", type=int, default=1000, show_default=True, help="Other training images, to choose by.")
@click.option("--check-images", type=int, default=2000, show_default=True, help="Held-out images to report on.")
@click.option(
    "--weights",
    metavar="bundled|imagenet|random|FILE",
    shell_complete=complete_weights,
    help="Weights of the full net, which all nets inherit, as for `edgemobile export`. [default: bundled]",
)
@click.option(
    "--res",
    type=click.IntRange(32, 2048),
    multiple=True,
    help="Input resolution in pixels; repeat it to search several. [default: the checkpoint's]",
)
@click.option("--trials", type=int, default=40, show_default=True, help="Nets to try; more with --resume continue it.")
@click.option("--population", type=int, default=10, show_default=True, help="Nets of one generation of NSGA-II.")
@click.option("--epochs", type=int, default=1, show_default=True, help="Passes of training for each net.")
@click.option("--batch", type=int, default=32, show_default=True, help="Images of one update of the training.")
@click.option("--lr", type=float, default=1e-3, show_default=True, help="Highest learning rate of the training.")
@click.option("--threads", type=int, default=0, help="Threads of PyTorch. [default: PyTorch's]")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of images and proposals.")
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, metavar="DIR", help="Folder for the checkpoints."
)
@click.option("--overwrite", is_flag=True, help="Replace an earlier result in --out.")
@click.option("--resume", is_flag=True, help="Continue the search in --out, with the same options or more --trials.")
@click.option("--plot", type=click.Path(path_type=Path), metavar="FILE", help="Draw the front: .svg, .png or .pdf.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on standard output.")
@click.option("-q", "--quiet", is_flag=True, help="Print only the result, no progress.")
def search(model: str, res: tuple[int, ...], plot: Path | None, as_json: bool, quiet: bool, **options: Any) -> int:
    """Search nets that are cheaper than MODEL on a device and lose little accuracy, and write a checkpoint of each
    net of the Pareto front.

    MODEL is a reference model or a checkpoint of one. Rows of its table get fewer channels, smaller kernels, no
    squeeze-and-excite, ReLU in place of hard-swish, or are left out; --res adds resolutions. Each net inherits MODEL's
    weights, is trained for a short time, and its int8 file is measured on --on. NSGA-II of Optuna proposes the next.
    The width multipliers of MODEL are tried first, so that they can be compared. Needs the extra [search].

    \b
    Examples:
      edgemobile search v3-small --data images/ --out found
      edgemobile search v3-small --data images/ --out found --trials 100 --resume
      edgemobile search v3-large --data images/ --on pi4 --res 96 --res 64 --out found --plot front.svg
      edgemobile finetune found/nets/17.safetensors --data images/ --out tuned
    """
    check_model(model)
    from edgemobile.errors import require
    from edgemobile.nas.request import SearchRequest

    request = SearchRequest(model=model, res=tuple(sorted(set(res))), **options)
    require("torch", "export")
    require("optuna", "search")
    from edgemobile.nas.plot import save_plot
    from edgemobile.nas.run import search as run
    from edgemobile.util.plot_file import check_plot

    if plot is not None:
        check_plot(plot)
        check_writable("--plot", plot, (options["data"],))
    with progress(quiet=quiet or as_json) as bars:
        result = run(request, bars)
    if as_json:
        print(to_json_text({**encode(result), "out": str(result.out)}), end="")
    else:
        print_search(result)
    if plot is not None:
        save_plot(result, plot)
    return 0
