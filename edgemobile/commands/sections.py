"""Help texts with options under headings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

__all__ = ["SectionedCommand"]

_REST = "Options"


class SectionedCommand(click.Command):
    """A command whose `--help` has its options in sections.

    `sections` maps a heading to the first option below it: {"Device": "--on", "Output": "--out"}. Options keep their
    order, so each belongs to the heading before it; those before the first heading come under "Options".
    Raises ValueError for an option that the command does not have.
    """

    def __init__(self, *args: Any, sections: Mapping[str, str], **attributes: Any) -> None:
        super().__init__(*args, **attributes)
        self._headings = {option: heading for heading, option in sections.items()}
        if unknown := self._headings.keys() - {option for parameter in self.params for option in parameter.opts}:
            raise ValueError(f"{self.name} has no option {', '.join(sorted(unknown))}")

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the sections in order."""
        below: dict[str, list[tuple[str, str]]] = {}
        heading = _REST
        for parameter in self.get_params(ctx):
            if isinstance(parameter, click.Argument):
                continue
            heading = next((self._headings[option] for option in parameter.opts if option in self._headings), heading)
            if record := parameter.get_help_record(ctx):
                below.setdefault(heading, []).append(record)
        for title, records in below.items():
            with formatter.section(title):
                formatter.write_dl(records)
