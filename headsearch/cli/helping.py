"""Help that fits a screen: of commands with many options the common ones, and all on demand."""

from __future__ import annotations

from typing import Any

import click

_ALL = "headsearch.help_all"


class Common(click.Option):
    """An option that `--help` shows."""


class Command(click.Command):
    """A command whose `--help` shows `Common` options, and whose `--help-all` shows all."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params.append(
            Common(
                ["--help-all"],
                is_flag=True,
                is_eager=True,
                expose_value=False,
                callback=_show_all,
                help="Show all options and exit.",
            )
        )

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options that are to be shown, as click does."""
        every = ctx.meta.get(_ALL, False)
        shown = [
            record
            for parameter in self.get_params(ctx)
            if isinstance(parameter, click.Option)
            and (every or isinstance(parameter, Common) or "--help" in parameter.opts)
            if (record := parameter.get_help_record(ctx)) is not None
        ]
        # Side by side where an option fits in 22 columns.
        with formatter.section("Options"):
            formatter.write_dl(shown, col_max=24)


def _show_all(ctx: click.Context, _parameter: click.Parameter, wanted: bool) -> None:
    if wanted:
        ctx.meta[_ALL] = True
        click.echo(ctx.get_help(), color=ctx.color)
        ctx.exit()
