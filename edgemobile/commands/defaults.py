"""Values for options that the command line omits: EDGEMOBILE_COMMAND_OPTION of the environment, then
[defaults.COMMAND] of edgemobile.toml.

[defaults.export]
int8 = true
calib = "images/"

[defaults.devices.setup]
quiet = true
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgemobile.errors import EdgemobileError
from edgemobile.util.config_file import CONFIG_NAME, ConfigFile, read_config

__all__ = ["config_option", "defaults_of", "name_variables", "refuse_bad_config"]


def _loaded(context: click.Context, parameter: click.Parameter, value: Path | None) -> Path | None:
    """Pass the defaults to every subcommand, or keep the error for `refuse_bad_config`."""
    path = value or Path(CONFIG_NAME)
    if not context.resilient_parsing and (value is not None or path.is_file()):
        assert isinstance(context.command, click.Group)
        try:
            context.default_map = defaults_of(context.command, read_config(path))
        except EdgemobileError as error:
            context.obj = error
    return value


def refuse_bad_config(context: click.Context) -> None:
    """Raises the EdgemobileError from reading edgemobile.toml. `ci` calls it once it can write it to its JUnit file."""
    if isinstance(context.find_root().obj, EdgemobileError):
        raise context.find_root().obj


config_option = click.option(
    "--config",
    type=click.Path(path_type=Path),
    metavar="FILE",
    callback=_loaded,
    help=f"Defaults of options, and what `ci` checks. [default: {CONFIG_NAME} where there is one]",
)


def defaults_of(group: click.Group, file: ConfigFile) -> dict[str, Any]:
    """click's default_map: command -> option -> value.

    Raises EdgemobileError, with FILE:LINE, for an unknown table, command, option or value.
    """
    file.check_tables()
    return _values(group, file.tables.get("defaults", {}), file, ("defaults",))


def _values(command: click.Command, tables: Any, file: ConfigFile, at: tuple[str, ...]) -> dict[str, Any]:
    """The options of a command and of its subcommands. `edgemobile` itself has none."""
    below = command.commands if isinstance(command, click.Group) else {}
    own = command.params if len(at) > 1 else ()
    options = {option: parameter for parameter in own for option in _names(parameter)}
    found = {}
    for name, value in _table(tables, file, at).items():
        parameter = options.get(name)
        if name in below:
            found[name] = _values(below[name], value, file, (*at, name))
        elif parameter is not None and parameter.name is not None:
            found[parameter.name] = _value(command, parameter, value, file, (*at, name))
        elif options:
            allowed = ", ".join(_names(one)[0] for one in own if _names(one))
            raise file.wrong((*at, name), f"{command.name} does not have this option. Allowed: {allowed}")
        else:
            raise file.wrong((*at, name), f"unknown command. Allowed: {', '.join(below)}")
    return found


def name_variables(command: click.Command, prefix: str) -> None:
    """Give every option of `command` and of its subcommands the environment variable PREFIX_OPTION.

    click would build it from the name of the Python parameter, which need not be the option's.
    """
    for parameter in command.params:
        if parameter.expose_value and (names := _names(parameter)):
            parameter.envvar = _variable(prefix, names[0])
    if isinstance(command, click.Group):
        for name, below in command.commands.items():
            name_variables(below, _variable(prefix, name))


def _variable(prefix: str, name: str) -> str:
    return f"{prefix}_{name}".upper().replace("-", "_")


def _names(parameter: click.Parameter) -> list[str]:
    """An option's long names without dashes, as written in the file, with - or _."""
    if not isinstance(parameter, click.Option):
        return []
    long = [option[2:] for option in parameter.opts if option.startswith("--")]
    return [*long, *(name.replace("-", "_") for name in long if "-" in name)]


def _value(command: click.Command, option: click.Parameter, value: Any, file: ConfigFile, at: tuple[str, ...]) -> Any:
    """The value as on the command line, parsed now so that an error names its line in the file."""
    assert isinstance(option, click.Option)
    if option.is_flag != isinstance(value, bool) or not isinstance(value, str | int | float | list):
        wanted = "true or false" if option.is_flag else "a number, text in quotes or a list of these"
        raise file.wrong(at, f"must be {wanted}; found {value!r}")
    if option.is_flag:
        return value
    texts = [str(item) for item in value] if isinstance(value, list) else [str(value)]
    given: Any = texts if option.multiple else ",".join(texts)
    try:
        option.process_value(click.Context(command, resilient_parsing=False), given)
    except click.UsageError as error:
        raise file.wrong(at, error.message) from error
    return given


def _table(value: Any, file: ConfigFile, at: tuple[str, ...]) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise file.wrong(at, f"must be a table, [{'.'.join(at)}]; found {value!r}")
    return value
