"""The commands of `kernels-core`. What they do stands in the modules that they call."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import click


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
