"""Every `edgemobile ...` that README and docs show is a command there is, with options and values there are."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import click
import pytest

from edgemobile.cli import cli

# What begins a command in a shell, a workflow or a hook. In a block, arguments must be complete.
_SHOWN = re.compile(
    r"(?:^\$ |^|(?<=&& )|(?<=run: )|(?<=entry: )|(?<=\d )|(?<=/bin/)|\$\()(edgemobile [a-z-].*?)(?= &&|\)\"|$)", re.M
)
_INLINE = re.compile(r"`(edgemobile [a-z-][^`]*)`")
_OPTION = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]*")
_SHELLS = ("sh", "yaml")
_TYPED = click.Choice | click.IntRange | click.types.IntParamType | click.types.FloatParamType
# Options of other programs that the docs name.
_FOREIGN = {"--strict", "--build-arg", "--noise", "--enable-plugins", "--atheris"}
# Pages about what was, where an option may be gone.
_HISTORY = ("docs/decisions.md",)


def parse(line: str, *, complete: bool) -> None:
    """Read a command as click does, without running it or asking for its files.

    Raises click.UsageError for a command, an option or a value there is not; where the line is `complete`, also for a
    required argument or option that is missing.
    """
    words = shlex.split(line, comments=True)
    words = words[
        : next((index for index, word in enumerate(words) if word in (">", "|", ";") or word[-1] == ";"), None)
    ]
    context, rest = click.Context(cli, info_name=words[0], **cli.context_settings), words[1:]
    while isinstance(context.command, click.Group):
        values, rest, _ = _parsed(context, rest)
        if not rest:
            return
        command = context.command.get_command(context, rest[0])
        if command is None:
            raise click.UsageError(f"no command {rest[0]!r}")
        context, rest = click.Context(command, info_name=rest[0], parent=context), rest[1:]
    values, _, _ = _parsed(context, rest)
    for parameter in context.command.get_params(context):
        value = values.get(parameter.name)
        given = isinstance(value, str | tuple | bool) and value != ()
        if complete and parameter.required and not given:
            raise click.UsageError(f"{parameter.name} is missing")
        if isinstance(value, str) and isinstance(parameter.type, _TYPED):
            parameter.type.convert(value, parameter, context)


def _parsed(context: click.Context, words: list[str]) -> tuple[dict, list[str], list]:
    parser = context.command.make_parser(context)
    if isinstance(context.command, click.Group):
        parser.allow_interspersed_args = False
    return parser.parse_args(list(words))


def _found(blocks: list[tuple[str, str, str]], prose: dict[str, str]) -> Iterator[tuple[str, str, bool]]:
    for page, kind, block in blocks:
        if kind in _SHELLS:
            for line in _SHOWN.findall(re.sub(r" *\\\n *", " ", block)):
                yield page, line, True
        elif kind == "text":
            for line in re.findall(r"^\$ (edgemobile .*)$", block, re.M):
                yield page, line, True
    for page, text in prose.items():
        for line in re.findall(r"^ {4}(edgemobile [a-z].*)$", text, re.M):
            yield page, line, True
        for line in _INLINE.findall(text):
            yield page, line, False


def test_every_command_parses(blocks: list[tuple[str, str, str]], prose: dict[str, str]) -> None:
    found = list(_found(blocks, prose))
    wrong = []
    for page, line, complete in found:
        try:
            parse(line, complete=complete)
        except (click.UsageError, ValueError) as error:
            wrong.append(f"{page}: {line}: {error.format_message() if isinstance(error, click.UsageError) else error}")
    assert not wrong, "\n".join(wrong)
    assert len(found) > 100
    shown = {shlex.split(line, comments=True)[1] for _, line, _ in found}
    assert set(cli.commands) <= shown


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("edgemobile exprot v3-large", "no command 'exprot'"),
        ("edgemobile export v3-large --int4", "No such option"),
        ("edgemobile export v3-large --target amr", "is not one of"),
        ("edgemobile export v3-large --res 96px", "not a valid integer"),
        ("edgemobile eval --data images/", "is missing"),
        ("edgemobile devices addd pi5 ssh://pi5", "no command 'addd'"),
    ],
)
def test_a_wrong_command_is_found(line: str, said: str) -> None:
    with pytest.raises(click.UsageError) as raised:
        parse(line, complete=True)
    assert said in raised.value.format_message()


def _options(command: click.Command) -> Iterator[str]:
    for parameter in command.params:
        yield from (*parameter.opts, *parameter.secondary_opts)
    if isinstance(command, click.Group):
        for child in command.commands.values():
            yield from _options(child)


def test_every_option_in_code_is_there(pages: dict[str, str], repo_root: Path) -> None:
    """In prose too: an option that was renamed must not live on in a sentence."""
    scripts = [*(repo_root / "benchmarks").glob("*.py"), *(repo_root / "examples").glob("*.py")]
    theirs = {name for path in scripts for name in re.findall(r"add_argument\(\s*\"(--[a-z0-9-]+)\"", path.read_text())}
    known = {*_options(cli), "--help", *theirs, *_FOREIGN}
    wrong = [
        f"{page}: {option}"
        for page, text in pages.items()
        if page not in _HISTORY
        for code in re.findall(r"`([^`\n]+)`", text)
        for option in _OPTION.findall(code)
        if option not in known and not code.startswith(("pip ", "pip-audit ", "mkdocs "))
    ]
    assert not wrong, "\n".join(wrong)


def test_the_reference_has_every_command_and_option(hooks: ModuleType, pages: dict[str, str]) -> None:
    assert pages["docs/reference/commands.md"].count(hooks._COMMANDS_HERE) == 1
    sections = dict(
        re.findall(r"^## (edgemobile[a-z -]*?) \{.*?\}\n(.*?)(?=^## |\Z)", hooks.command_reference(), re.M | re.S)
    )
    shown = {
        path: set(_OPTION.findall("".join(re.findall(r"^\| (.*?) \|", text, re.M)))) for path, text in sections.items()
    }
    assert shown["edgemobile devices add"] == {"--root", "--python", "--ssh-config", "--tag", "--help"}
    for name, command in cli.commands.items():
        assert shown[f"edgemobile {name}"] == {
            option for option in {*_options_of(command), "--help"} if option.startswith("--")
        }


def _options_of(command: click.Command) -> Iterator[str]:
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            yield from (*parameter.opts, *parameter.secondary_opts)


def test_what_a_page_loads_is_found(hooks: ModuleType) -> None:
    for tag in (
        '<script src="https://a/b.js">',
        '<link rel="stylesheet" href="//a/b.css">',
        '<img alt="" src=https://a>',
    ):
        assert hooks._EXTERNAL.findall(f"<p>{tag}</p>") == [tag]
    assert not hooks._EXTERNAL.findall('<a href="https://a/">a</a><script src="assets/b.js"></script><img src="c.png">')
