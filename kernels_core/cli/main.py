"""The commands of `kernels-core`. What they do stands in the modules that they call."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kernels_core.errors import KernelsError, ProjectError

if TYPE_CHECKING:
    from kernels_core.loading.download import Selection


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
    from kernels_core.cli.diagnosis_text import as_text, to_json
    from kernels_core.cli.doctor import diagnose

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

    with _errors_for_people():
        report = command.check(project) if check else command.lock(project)
    _show(report, command.as_text(report, checked=check), as_json)
    sys.exit(1 if report.problems else 0)


def _selection(command: Callable[..., None]) -> Callable[..., None]:
    """The options that say which builds to get, and with whose trust."""
    for option in reversed(
        (
            click.option(
                "--all-variants", is_flag=True, help="Every build, not only the one for here."
            ),
            click.option(
                "--variant",
                "variants",
                multiple=True,
                metavar="PATTERN",
                help="The builds with such names, such as 'torch213-*-x86_64-linux'; repeatable.",
            ),
            click.option("--backend", help="Choose builds for this backend, such as 'cpu'."),
            click.option(
                "--trust",
                multiple=True,
                metavar="NAME",
                help="Trust a publisher, repository or commit this time; repeatable.",
            ),
        )
    ):
        command = option(command)
    return command


def _selected(
    all_variants: bool, variants: tuple[str, ...], backend: str | None, trust: tuple[str, ...]
) -> Selection:
    from kernels_core.hub.trust import TrustList
    from kernels_core.loading.download import Selection

    if all_variants + bool(variants) + bool(backend) > 1:
        raise click.UsageError("Give one of --all-variants, --variant and --backend.")
    try:
        TrustList.of(trust)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--trust") from None
    return Selection(("*",) if all_variants else variants or None, backend, trust)


@main.command()
@_project
@_selection
@_json
def download(
    project: Path,
    all_variants: bool,
    variants: tuple[str, ...],
    backend: str | None,
    trust: tuple[str, ...],
    as_json: bool,
) -> None:
    """Get the kernels that the lock of the PROJECT names onto this machine.

    Without options these are the builds for this machine. They are verified, and programs then load
    them without asking the Hub. The exit status is 1 when a kernel could not be had.
    """
    from kernels_core.cli import download as command

    selection = _selected(all_variants, variants, backend, trust)
    with _errors_for_people(), _only_the_result_on_stdout():
        report = command.download(project, selection)
    _show(report, command.as_text(report), as_json)
    sys.exit(1 if report.failures else 0)


@main.command()
@click.argument("output", type=click.Path(path_type=Path))
@click.argument("kernels", nargs=-1, metavar="[KERNEL]...")
@click.option(
    "--project",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Bundle all that the lock of this project names.",
)
@_selection
@click.option("--endpoint", metavar="URL", help="HF_ENDPOINT on the other machine, if it differs.")
@_json
def bundle(
    output: Path,
    kernels: tuple[str, ...],
    project: Path | None,
    all_variants: bool,
    variants: tuple[str, ...],
    backend: str | None,
    trust: tuple[str, ...],
    endpoint: str | None,
    as_json: bool,
) -> None:
    """Write kernels to OUTPUT, for a machine that reaches no Hub.

    OUTPUT is an archive when its name ends in .tar, .tar.gz, .tgz or .zip, else a directory. A
    KERNEL is a repository and a version or revision: org/name, org/name@1, 'org/name@>=0.1',
    org/name@main. What it needs comes with it.

    The exit status is 1, and nothing is written, when a kernel could not be had.
    """
    from kernels_core.cli import bundle as command
    from kernels_core.loading.download import Request
    from kernels_core.locks.files import read_lock
    from kernels_core.locks.lock import LOCK_NAME
    from kernels_core.locks.project import parse_requirement

    selection = _selected(all_variants, variants, backend, trust)
    if not kernels and project is None:
        raise click.UsageError("Name a KERNEL, or a --project with a lock.")
    try:
        requests = [Request(parse_requirement(kernel)) for kernel in kernels]
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="KERNEL") from None
    with _errors_for_people(), _only_the_result_on_stdout():
        requests += Request.of_lock(read_lock(project / LOCK_NAME)) if project else []
        report = command.bundle(requests, output, selection, endpoint)
    _show(report, command.as_text(report), as_json)
    sys.exit(1 if report.failures else 0)


@main.command()
@click.argument("path", metavar="BUNDLE", type=click.Path(exists=True, path_type=Path))
@click.argument("directory", required=False, type=click.Path(path_type=Path))
@click.option("--digest", help="What the bundle's digest must be: sha256:...")
@_json
def unbundle(path: Path, directory: Path | None, digest: str | None, as_json: bool) -> None:
    """Verify a BUNDLE, and unpack it to DIRECTORY when it is an archive.

    KERNELS_CACHE=DIRECTORY then makes programs load from it. The exit status is 1, and nothing is
    unpacked, when the bundle is damaged or has another digest.
    """
    from kernels_core.cli import bundle as command

    if path.is_dir() and directory is not None:
        raise click.UsageError(f"{path} is a directory: it needs no unpacking, so give no other.")
    if not path.is_dir() and directory is None:
        raise click.UsageError(f"{path} is an archive: name the directory to unpack it to.")
    with _errors_for_people(), _only_the_result_on_stdout():
        report = command.unbundle(path, directory, digest)
    _show(report, command.unbundled_as_text(report), as_json)


@main.command()
@click.argument("subject", required=False)
@click.option("--revision", help="Branch, tag or commit on the Hub; its newest version otherwise.")
@click.option(
    "--variant",
    "variants",
    multiple=True,
    metavar="PATTERN",
    help="Check the builds with such names, such as 'torch213-*'; repeatable.",
)
@click.option("--run", is_flag=True, help="Also load the build for this machine, and try it.")
@click.option("--select", multiple=True, metavar="RULE", help="Judge by these rules or families.")
@click.option("--ignore", multiple=True, metavar="RULE", help="Leave out these rules or families.")
@click.option(
    "--format",
    "output",
    type=click.Choice(["text", "json", "sarif", "github"]),
    default="text",
    show_default=True,
    help="How to print what is found.",
)
@click.option("--list-rules", is_flag=True, help="Print all rules, and check nothing.")
def check(
    subject: str | None,
    revision: str | None,
    variants: tuple[str, ...],
    run: bool,
    select: tuple[str, ...],
    ignore: tuple[str, ...],
    output: str,
    list_rules: bool,
) -> None:
    """Check whether a kernel repository would load everywhere that it claims to.

    SUBJECT is a directory with a kernel repository, one build of it, a single file of native code,
    or org/name on the Hub. Without --run nothing of it is imported. RULE may be given more than
    once, or as names with commas between them.

    The exit status is 0 when nothing is found, 1 when something is, and 2 when it could not be
    checked.
    """
    from kernels_core.cli import check as command

    if list_rules:
        click.echo(command.rules_as(output))
        return
    if subject is None:
        raise click.UsageError("Name what to check: a directory, a file, or org/name.")
    with _only_the_result_on_stdout():
        report = command.checked(
            subject,
            revision=revision,
            variants=variants,
            run=run,
            select=select,
            ignore=ignore,
        )
    colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    click.echo(command.rendered(report, output, colour=colour))
    sys.exit(0 if report.clean else 1)


def _show(report: object, text: str, as_json: bool) -> None:
    from kernels_core.cli.values import plain

    click.echo(json.dumps(plain(report), indent=2) if as_json else text)


@contextlib.contextmanager
def _errors_for_people() -> Iterator[None]:
    """Say what failed without a traceback: exit status 2 for a wrong project, else 1."""
    try:
        yield
    except (KernelsError, OSError) as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(2 if isinstance(error, ProjectError) else 1)


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
