"""What `mkdocs build` adds to docs/: README, CONTRIBUTING and CHANGELOG as pages, commands, and ops of PyTorch.

mkdocs calls the on_ functions (mkdocs.yml lists this file under hooks). mkdocs is imported where it is needed, so that
the tests read the command reference without it.
"""

from __future__ import annotations

import inspect
import logging
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgemobile.cli import cli
from edgemobile.loading.program_text import computing_ops
from edgemobile.lower.coverage import coverage

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

# Warnings of this logger fail `mkdocs build --strict`.
_LOG = logging.getLogger("mkdocs.hooks.edgemobile")

# File at the root of the repository -> page of the site.
_ROOT_PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
_COMMANDS_HERE, _OPS_HERE = "<!-- commands -->", "<!-- ops -->"
_EXTERNAL = re.compile(r"""<(?:script|link|img|iframe)\b[^>]*\b(?:src|href)=["']?(?:https?:)?//[^>]*>""")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages whose text is at the root of the repository."""
    from mkdocs.structure.files import File

    root = Path(config.docs_dir).parent
    for source, page in _ROOT_PAGES.items():
        text = (root / source).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=links_from_docs(text)))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    for mark, made in ((_COMMANDS_HERE, command_reference), (_OPS_HERE, op_table)):
        markdown = markdown.replace(mark, made()) if mark in markdown else markdown
    return markdown


def on_post_page(output: str, page: Page, **_: Any) -> None:
    """A page loads nothing from the network: readers may be offline, and a build server tells nobody who reads."""
    for tag in _EXTERNAL.findall(output):
        _LOG.warning("%s loads something from the network: %s", page.file.src_uri, tag)


def links_from_docs(text: str) -> str:
    """Markdown from the root of the repository with its links as a page in docs/ has them."""
    for source, page in _ROOT_PAGES.items():
        text = text.replace(f"]({source}", f"]({page}")
    return text.replace("](docs/", "](")


def command_reference(program: str = "edgemobile") -> str:
    """Every command as markdown: usage, help and a table of its options, as `--help` says them."""
    context = click.Context(cli, info_name=program, **cli.context_settings)
    return "\n".join(line for command in _commands(context) for line in _command_lines(command))


def op_table() -> str:
    """Every aten op that is known, with what becomes of it."""
    rows = [f"| `{row.op}` | {row.status} | {_cell(row.note)} |" for row in coverage(computing_ops())]
    return "\n".join(("| op | becomes | how, or why not |", "|---|---|---|", *rows)) + "\n"


def _commands(context: click.Context) -> Iterator[click.Context]:
    yield context
    if isinstance(context.command, click.Group):
        for command in context.command.commands.values():
            yield from _commands(click.Context(command, info_name=command.name, parent=context))


def _command_lines(context: click.Context) -> Iterator[str]:
    command, path = context.command, context.command_path
    label = " ".join(path.split()[1:]) or path
    yield f'## {path} {{ #{path.replace(" ", "-")} data-toc-label="{label}" }}\n'
    yield f"```text\n{' '.join((path, *command.collect_usage_pieces(context)))}\n```\n"
    yield from _help_lines(command.help)
    yield "| option | what it does |\n|---|---|"
    yield from (f"| {_code(names)} | {_cell(meaning)} |" for names, meaning in _options(context))
    yield ""
    yield from _help_lines(command.epilog)


def _options(context: click.Context) -> Iterator[tuple[str, str]]:
    """(names and placeholder, help and default) of every option that is not hidden, as `--help` prints them.

    Choices come after the help: the first column would not hold them.
    """
    for option in context.command.get_params(context):
        if isinstance(option, click.Option) and (record := option.get_help_record(context)):
            names, meaning = record
            if isinstance(option.type, click.Choice):
                names = names.partition(" [")[0]
                meaning = f"{meaning} One of {', '.join(map(str, option.type.choices))}."
            yield names, meaning


def _help_lines(text: str | None) -> Iterator[str]:
    """Paragraphs of click's help; one that begins with \\b, which keeps its lines, becomes a block of code."""
    for paragraph in filter(None, re.split(r"\n\s*\n", inspect.cleandoc(text or "").strip())):
        if not paragraph.startswith("\b"):
            yield f"{paragraph}\n"
            continue
        title, *lines = paragraph.removeprefix("\b").lstrip("\n").splitlines()
        block = textwrap.dedent("\n".join(lines))
        yield f"{title}\n\n```text\n{block}\n```\n"


def _code(names: str) -> str:
    """Each name of `-q, --quiet` or `--a / --no-a` and its placeholder as their own code: a table breaks between."""
    return re.sub("[^,/ ][^, ]*(?:,[^, ]+)*", lambda found: f"`{found[0]}`", names)


def _cell(text: str) -> str:
    return text.replace("|", "&#124;").replace("<", "&lt;")
