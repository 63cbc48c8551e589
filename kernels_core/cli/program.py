"""How every command behaves: the options that all have, errors, colours and exit statuses."""

from __future__ import annotations

import itertools
import json
import logging
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import click

from kernels_core.environment import expand_home
from kernels_core.errors import EnvironmentVariableError

INTERRUPTED = 130
"""The exit status after Ctrl-C, as in shells: 128 plus the number of the signal."""


class Failure(click.ClickException):
    """An error that ends a command with an exit status; `kind` is what `--json` calls it."""

    def __init__(self, message: str, *, kind: str, status: int = 1) -> None:
        super().__init__(message)
        self.kind = kind
        self.status = status


class Command(click.Command):
    """A command with `--quiet` and `--verbose`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params += [
            click.Option(
                ["-q", "--quiet"],
                is_flag=True,
                expose_value=False,
                is_eager=True,
                callback=_be_quiet,
                help="Print only results and errors: no warnings, no progress.",
            ),
            click.Option(
                ["-v", "--verbose"],
                is_flag=True,
                expose_value=False,
                is_eager=True,
                callback=_be_verbose,
                help="Also print what is logged, to standard error.",
            ),
        ]


def _be_quiet(context: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        context.meta[_QUIET] = True
        logging.getLogger("kernels_core").setLevel(logging.ERROR)
        # The Hub client, which shows the progress of downloads, reads it when it is imported.
        os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"


def _be_verbose(_: click.Context, __: click.Parameter, value: bool) -> None:
    if value:
        logging.basicConfig(stream=sys.stderr, format="%(name)s: %(message)s")
        logging.getLogger("kernels_core").setLevel(logging.DEBUG)


_QUIET = "kernels_core.quiet"


def is_quiet() -> bool:
    """Whether the command that runs was called with `--quiet`."""
    context = click.get_current_context(silent=True)
    return context is not None and bool(context.meta.get(_QUIET))


class UserPath(click.Path):
    """A path in which `~` is a home directory: shells leave it as it is in `--option=~/path`."""

    def convert(
        self, value: Any, parameter: click.Parameter | None, context: click.Context | None
    ) -> Any:
        """Called by click with the path as it was given."""
        name = parameter.opts[-1] if parameter else "path"
        try:
            expanded = os.fspath(expand_home(value, name))
        except EnvironmentVariableError as error:
            self.fail(str(error), parameter, context)
        return super().convert(expanded, parameter, context)


class Program(click.Group):
    """A group of commands that end in the same ways."""

    command_class = Command
    group_class = type

    def main(self, args: Sequence[str] | None = None, *rest: Any, **extra: Any) -> NoReturn:
        """Run the command that the arguments name, and end the process with its exit status."""
        given = sys.argv[1:] if args is None else list(args)
        _open_closed_streams()
        # https://no-color.org
        extra.setdefault("color", False if os.environ.get("NO_COLOR") else None)
        try:
            status = super().main(given, *rest, **{**extra, "standalone_mode": False})
        except click.ClickException as error:
            status = error.status if isinstance(error, Failure) else error.exit_code
            if _wants_json(given):
                click.echo(json.dumps({"error": _as_json(error)}, indent=2))
            else:
                error.show()
        except OSError as error:
            # A full disk, for example. An output that nobody reads any more is no error for click.
            status = 1
            click.echo(f"Error: {error}", err=True)
        except click.Abort:
            status = INTERRUPTED
            click.echo("Interrupted.", err=True)
        sys.exit(status if isinstance(status, int) else 0)


def _open_closed_streams() -> None:
    """Discard what is written to a stream that the caller has closed, as with `>&-`."""
    for number, name in ((1, "stdout"), (2, "stderr")):
        if getattr(sys, name) is None:
            opened = os.open(os.devnull, os.O_WRONLY)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            setattr(sys, name, os.fdopen(number, "w", encoding="utf-8", closefd=False))


def _wants_json(arguments: Sequence[str]) -> bool:
    pairs = itertools.pairwise(arguments)
    return not {"--json", "--format=json"}.isdisjoint(arguments) or ("--format", "json") in pairs


def _as_json(error: click.ClickException) -> dict[str, str]:
    kind = error.kind if isinstance(error, Failure) else type(error).__name__
    return {"type": kind, "message": error.format_message()}
