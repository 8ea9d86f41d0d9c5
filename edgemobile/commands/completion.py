"""`edgemobile completion`, and what the Tab key offers: values of options, and files."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import click
from click.shell_completion import CompletionItem, get_completion_class

from edgemobile.errors import EdgemobileError
from edgemobile.models.arch import ARCHS

__all__ = [
    "complete_bounds",
    "complete_device_rows",
    "complete_devices",
    "complete_files",
    "complete_formats",
    "complete_gate_models",
    "complete_models",
    "complete_preprocess",
    "complete_recipes",
    "complete_refs",
    "complete_runtime",
    "complete_runtimes",
    "complete_weights",
    "completion",
]

_Completer = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]
_WHERE = {
    "bash": '~/.bashrc:                      eval "$(edgemobile completion bash)"',
    "zsh": '~/.zshrc:                       eval "$(edgemobile completion zsh)"',
    "fish": "~/.config/fish/config.fish:     edgemobile completion fish | source",
}


@click.command(
    epilog="\b\nTo load it in every new shell, add one line to\n" + "\n".join(f"  {line}" for line in _WHERE.values()),
)
@click.argument("shell", type=click.Choice(list(_WHERE)))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the script that lets SHELL complete commands, options, models, devices and recipes."""
    kind = get_completion_class(shell)
    assert kind is not None
    command = context.find_root().command
    # click's `source` for bash runs bash to check its version; the script is the same for every version.
    made = kind(command, {}, "edgemobile", "_EDGEMOBILE_COMPLETE")
    click.echo(made.source_template % made.source_vars())


def _completer(names: Callable[[], Iterable[str]], *, files: bool = False, several: bool = False) -> _Completer:
    """A completion from `names` (a list of them if `several`), and from files if no name matches."""

    def complete(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
        before, comma, last = incomplete.rpartition(",") if several else ("", "", incomplete)
        try:
            found = [name for name in names() if name.startswith(last)]
        except EdgemobileError:
            # Every command that needs the devices file reports a broken one; the Tab key does not.
            found = []
        items = [CompletionItem(before + comma + name) for name in found]
        return items if items or not files else [CompletionItem(incomplete, type="file")]

    return complete


def _devices() -> list[str]:
    from edgemobile.devices.host.emulation import CORES
    from edgemobile.devices.host.profiles import load_devices

    return [*load_devices(), *(f"emulated:{cpu}" for cpu in CORES)]


def _device_rows() -> list[str]:
    from edgemobile.devices.host.profiles import load_devices

    return [name for name in load_devices() if name != "local"]


def _recipes() -> list[str]:
    from edgemobile.quant.recipes import RECIPES

    return list(RECIPES)


def _gate_models() -> list[str]:
    from edgemobile.util.config_file import CONFIG_NAME, read_config

    context = click.get_current_context(silent=True)
    named = context.params.get("config") if context is not None else None
    return list(read_config(Path(named or CONFIG_NAME)).tables.get("models", {}))


def _formats() -> list[str]:
    from edgemobile.exporters import FORMATS

    return list(FORMATS)


def _runtimes() -> list[str]:
    from edgemobile.devices.runtimes.table import RUNTIMES

    return list(RUNTIMES)


def _weights() -> list[str]:
    from edgemobile.loading.checkpoint import NAMED

    return list(NAMED)


def _preprocess() -> list[str]:
    from edgemobile.loading.presets import PRESETS

    return list(PRESETS)


def _bounds() -> list[str]:
    from edgemobile.metrics.measures import METRICS

    return [f"{metric}=" for metric in METRICS]


complete_files = _completer(lambda: (), files=True)
complete_formats = _completer(_formats, several=True)
complete_runtime = _completer(_runtimes)
complete_runtimes = _completer(_runtimes, several=True)
complete_weights = _completer(_weights, files=True)
complete_preprocess = _completer(_preprocess, files=True)
complete_bounds = _completer(_bounds, several=True)
complete_models = _completer(lambda: ARCHS)
complete_refs = _completer(lambda: ARCHS, files=True)
complete_devices = _completer(_devices, several=True)
complete_device_rows = _completer(_device_rows)
complete_recipes = _completer(_recipes, files=True)
complete_gate_models = _completer(_gate_models)
