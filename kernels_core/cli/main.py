"""The commands of `kernels-core`. What they do stands in the modules that they call."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from kernels_core.errors import KernelsError, ProjectError


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="kernels-core")
def main() -> None:
    """Run optimized compute kernels in PyTorch models, on any accelerator."""


@main.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for an answer of a plugin.",
)
def doctor(as_json: bool, timeout: float) -> None:
    """Examine the installed backends and this machine.

    Shows what was found, which backend serves which device and why, what is switched off, what
    failed with its whole traceback, every device with its facts, and what to install for hardware
    that no backend serves. Facts are read from the devices, which initialises them.

    The exit status is 0 when nothing failed and a backend can be used, else 1.
    """
    from kernels_core.cli.doctor import diagnose
    from kernels_core.cli.rendering import as_text, to_json

    with _only_the_result_on_stdout():
        diagnosis = diagnose(timeout)
    click.echo(to_json(diagnosis) if as_json else as_text(diagnosis, _width()))
    sys.exit(0 if diagnosis.healthy else 1)


@main.command()
@click.argument("name")
@click.option(
    "--directory",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=".",
    show_default=True,
    help="Where the project's directory goes.",
)
def new_backend(name: str, directory: Path) -> None:
    """Write the project of a backend plugin for NAME devices.

    It installs and passes the conformance kit as it is written, for you to change.
    """
    from kernels_core.cli.new_backend import NewBackendError, write_project

    try:
        project = write_project(name, directory)
    except NewBackendError as error:
        raise click.UsageError(str(error)) from None
    click.echo(f"Wrote {project}. Next:")
    click.echo(f"  cd {project} && pip install --editable . --group test && pytest")


_project = click.argument(
    "project", type=click.Path(exists=True, file_okay=False, path_type=Path), default="."
)
_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


@main.command()
@_project
@click.option("--check", is_flag=True, help="Write nothing; fail if the lock is out of date.")
@_json
def lock(project: Path, check: bool, as_json: bool) -> None:
    """Write kernels.lock for the PROJECT, a directory with a pyproject.toml.

    Finds the commits that the kernels of [tool.kernels.dependencies], and all that they need, stand
    at now. The hashes of their builds go to kernels.lock.digests.json.

    With --check it asks nobody: it compares the lock with pyproject.toml. The exit status is 1 when
    they do not belong together, and 2 when pyproject.toml is malformed.
    """
    from kernels_core.cli import lock as command
    from kernels_core.cli.values import plain

    with _errors_for_people():
        report = command.check(project) if check else command.lock(project)
    if as_json:
        click.echo(json.dumps(plain(report), indent=2))
    else:
        click.echo(command.as_text(report, checked=check))
    sys.exit(1 if report.problems else 0)


@contextlib.contextmanager
def _errors_for_people() -> Iterator[None]:
    """Say what failed without a traceback: exit status 2 for a wrong project, else 1."""
    try:
        yield
    except KernelsError as error:
        failure = click.ClickException(str(error))
        failure.exit_code = 2 if isinstance(error, ProjectError) else 1
        raise failure from error


@contextlib.contextmanager
def _only_the_result_on_stdout() -> Iterator[None]:
    """Send what plugins and native libraries print to standard error."""
    sys.stdout.flush()
    # Names of devices and tracebacks may hold what the terminal's encoding lacks.
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")
    stdout, stderr = 1, 2
    kept = os.dup(stdout)
    os.dup2(stderr, stdout)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, stdout)
        os.close(kept)


def _width() -> int | None:
    """The width of the terminal; None where the output goes to a file or a program."""
    return os.get_terminal_size().columns if sys.stdout.isatty() else None
