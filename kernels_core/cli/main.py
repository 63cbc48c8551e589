"""The commands of `kernels-core` and their options; the modules that they call do the work.

A command imports its module when it runs: all of them together take 145 ms, and this one 30.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import click

from kernels_core.cli.output import (
    errors_for_people,
    has_colours,
    only_the_result_on_stdout,
    show,
    width,
)
from kernels_core.cli.program import Program, UserPath


@click.group(cls=Program, context_settings={"help_option_names": ["-h", "--help"]})
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
    help="How long to wait for each call of a plugin.",
)
def doctor(as_json: bool, timeout: float) -> None:
    """Examine the installed backends and this machine.

    Shows the backends, every device with its facts, which backend serves which device and why,
    disabled plugins, failures with their tracebacks, and what to install for hardware that no
    backend serves. Reading facts initialises the devices.

    The exit status is 0 if nothing failed and a backend can be used, else 1.
    """
    from kernels_core.cli import diagnosis_text
    from kernels_core.cli import doctor as command

    with only_the_result_on_stdout():
        diagnosis = command.diagnose(timeout)
    show(diagnosis, diagnosis_text.as_text(diagnosis, width()), as_json)
    sys.exit(0 if diagnosis.healthy else 1)


@main.command()
@click.argument("name")
@click.option(
    "--directory",
    type=UserPath(exists=True, file_okay=False, path_type=Path),
    default=".",
    show_default=True,
    help="Parent of the project's directory.",
)
def new_backend(name: str, directory: Path) -> None:
    """Generate the project of a backend plugin for NAME devices.

    It can be installed and passes its conformance test, for you to adapt.
    """
    from kernels_core.cli.new_backend import NewBackendError, write_project

    try:
        project = write_project(name, directory)
    except NewBackendError as error:
        raise click.UsageError(str(error)) from None
    click.echo(f"Wrote {project}. Next:")
    click.echo(f"  cd {project} && pip install --editable . --group test && pytest")


_project = click.argument(
    "project", type=UserPath(exists=True, file_okay=False, path_type=Path), default="."
)
_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


@main.command()
@_project
@click.option("--check", is_flag=True, help="Write nothing; fail if the lock is out of date.")
@click.option("-U", "--upgrade", is_flag=True, help="Lock the newest commits of all kernels.")
@click.option(
    "-P",
    "--upgrade-kernel",
    "upgraded",
    multiple=True,
    metavar="NAME",
    help="Lock the newest commit of this kernel; repeatable.",
)
@_json
def lock(
    project: Path, check: bool, upgrade: bool, upgraded: tuple[str, ...], as_json: bool
) -> None:
    """Write kernels.lock for the PROJECT, a directory with a pyproject.toml.

    Finds the commits of the kernels in [tool.kernels.dependencies], and of all that they need.
    What is locked already stays as it is, as long as it meets what is required: --upgrade and
    --upgrade-kernel look for newer commits. The hashes of all builds are written to
    kernels.lock.digests.json.

    With --check it sends no requests: it compares the lock with pyproject.toml. The exit status is
    1 when they do not match, and 2 when pyproject.toml is malformed.
    """
    from kernels_core.cli import lock as command

    if check and (upgrade or upgraded):
        raise click.UsageError("--check writes nothing: it cannot be combined with --upgrade.")
    with errors_for_people():
        if check:
            report = command.check(project)
        else:
            report = command.lock(project, upgrade=upgrade, upgraded=upgraded)
    show(report, command.as_text(report), as_json)
    sys.exit(1 if report.problems else 0)


def _selection(command: Callable[..., None]) -> Callable[..., None]:
    """The options that say which builds to download, and what to trust."""
    for option in reversed(
        (
            click.option(
                "--all-variants", is_flag=True, help="Every build, not only those for this machine."
            ),
            click.option(
                "--variant",
                "variants",
                multiple=True,
                metavar="PATTERN",
                help="Builds whose names match, such as 'torch213-*-x86_64-linux'; repeatable.",
            ),
            click.option("--backend", help="Select builds for this backend, such as 'cpu'."),
            click.option(
                "--trust",
                multiple=True,
                metavar="NAME",
                help="Trust a publisher, repository or commit for this command; repeatable.",
            ),
        )
    ):
        command = option(command)
    return command


@main.command()
@click.argument("targets", nargs=-1, metavar="[PROJECT | KERNEL...]")
@_selection
@_json
def download(
    targets: tuple[str, ...],
    all_variants: bool,
    variants: tuple[str, ...],
    backend: str | None,
    trust: tuple[str, ...],
    as_json: bool,
) -> None:
    """Download kernels to the cache: those in the lock of the PROJECT, or the named ones.

    PROJECT is a directory with a kernels.lock, the current one by default. A KERNEL is a
    repository and a version or revision: org/name, org/name@1, 'org/name@>=0.1', org/name@main.
    The kernels that they need are included.

    Without options, the builds for this machine are downloaded. They are verified, and programs
    then load them without requests to the Hub. The exit status is 1 when a kernel could not be
    downloaded.
    """
    from kernels_core.cli import download as command

    selection = command.selected(all_variants, variants, backend, trust)
    with errors_for_people(), only_the_result_on_stdout():
        report = command.download(targets, selection)
    show(report, command.as_text(report), as_json)
    sys.exit(1 if report.failures else 0)


@main.command()
@click.argument("output", type=UserPath(path_type=Path))
@click.argument("kernels", nargs=-1, metavar="[KERNEL]...")
@click.option(
    "--project",
    type=UserPath(exists=True, file_okay=False, path_type=Path),
    help="Bundle everything in the lock of this project.",
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
    """Write kernels to OUTPUT, for a machine that cannot reach the Hub.

    OUTPUT is an archive when its name ends in .tar, .tar.gz, .tgz or .zip, else a directory. A
    KERNEL is a repository and a version or revision: org/name, org/name@1, 'org/name@>=0.1',
    org/name@main. The kernels that it needs are included.

    The exit status is 1, and nothing is written, when a kernel could not be downloaded.
    """
    from kernels_core.cli import bundle as command
    from kernels_core.cli.download import locked, named, selected

    selection = selected(all_variants, variants, backend, trust)
    if not kernels and project is None:
        raise click.UsageError("Name a KERNEL, or a --project with a lock.")
    with errors_for_people(), only_the_result_on_stdout():
        requests = [*named(kernels), *(locked(project) if project else ())]
        report = command.bundle(requests, output, selection, endpoint)
    show(report, command.as_text(report), as_json)
    sys.exit(1 if report.failures else 0)


@main.command()
@click.argument("path", metavar="BUNDLE", type=UserPath(exists=True, path_type=Path))
@click.argument("directory", required=False, type=UserPath(path_type=Path))
@click.option("--digest", help="The digest that the bundle must have: sha256:...")
@click.option("--if-missing", is_flag=True, help="Accept a DIRECTORY that has this bundle already.")
@_json
def unbundle(
    path: Path, directory: Path | None, digest: str | None, if_missing: bool, as_json: bool
) -> None:
    """Verify a BUNDLE, and unpack it to DIRECTORY if it is an archive.

    With KERNELS_CACHE=DIRECTORY, programs load from it. The exit status is 1, and nothing is
    unpacked, if the bundle is damaged or does not have the expected digest, or if DIRECTORY
    exists. With --if-missing, a directory with this very bundle is verified instead: any number
    of processes may unpack it to the same place.
    """
    from kernels_core.cli import bundle as command

    if path.is_dir() and directory is not None:
        raise click.UsageError(f"{path} is a directory, which needs no unpacking: omit DIRECTORY.")
    if not path.is_dir() and directory is None:
        raise click.UsageError(f"{path} is an archive: give the DIRECTORY to unpack it to.")
    with errors_for_people(), only_the_result_on_stdout():
        report = command.unbundle(path, directory, digest, if_missing)
    show(report, command.unbundled_as_text(report), as_json)


@main.group()
def cache() -> None:
    """Show, verify and clean up the kernels in the cache."""


@cache.command("list")
@_json
def list_kernels(as_json: bool) -> None:
    """List the kernels in the cache, with the branches and tags that led to them.

    Example: kernels-core cache list
    """
    from kernels_core.cli import cache as command

    with errors_for_people():
        report = command.list_kernels()
    show(report, command.list_as_text(report), as_json)


@cache.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
@_json
def verify(names: tuple[str, ...], as_json: bool) -> None:
    """Hash all files of the kernels in the cache, or of the repositories NAME.

    The exit status is 1 when a build is not as it was published.

    Example: kernels-core cache verify org/activation
    """
    from kernels_core.cli import cache as command

    with errors_for_people():
        report = command.verify(names)
    show(report, command.verify_as_text(report), as_json)
    sys.exit(1 if report.damaged else 0)


@cache.command()
@click.option("--dry-run", is_flag=True, help="Only show what would be removed.")
@_json
def prune(dry_run: bool, as_json: bool) -> None:
    """Remove the commits that no branch, tag, lock or program names any more.

    Example: kernels-core cache prune --dry-run
    """
    from kernels_core.cli import cache as command

    with errors_for_people():
        report = command.prune(dry_run=dry_run)
    show(report, command.prune_as_text(report), as_json)


@main.group()
def trust() -> None:
    """Show which kernels this machine trusts, and why."""


@trust.command("list")
@_json
def list_entries(as_json: bool) -> None:
    """List what the trust file and KERNELS_TRUST name.

    Example: kernels-core trust list
    """
    from kernels_core.cli import trust as command

    with errors_for_people():
        report = command.list_entries()
    show(report, command.list_as_text(report), as_json)


@trust.command()
@click.argument("kernel", metavar="KERNEL")
@_json
def explain(kernel: str, as_json: bool) -> None:
    """Say whether KERNEL, such as org/name or org/name@1, is trusted, and by what.

    Nothing of it is downloaded. The exit status is 1 when it is not trusted.

    Example: kernels-core trust explain org/activation@1
    """
    from kernels_core.cli import trust as command

    with errors_for_people():
        report = command.explain(kernel)
    show(report, command.explained_as_text(report), as_json)
    sys.exit(0 if report.trusted else 1)


@main.group()
def compat() -> None:
    """Run programs for Hugging Face kernels, which import `kernels`."""


@compat.command()
@click.option(
    "--version",
    default="0.17.2",
    show_default=True,
    help="Version of Hugging Face kernels that programs and resolvers see.",
)
@click.option(
    "-o",
    "--output",
    "directory",
    type=UserPath(file_okay=False, path_type=Path),
    default=".",
    show_default=True,
    help="Directory to write the wheel to.",
)
@_json
def wheel(version: str, directory: Path, as_json: bool) -> None:
    """Write a wheel of a distribution `kernels` that re-exports kernels-core.

    It replaces Hugging Face kernels wherever it is installed, for programs that cannot call
    kernels_core.compat.activate(), for resolvers and for type checkers.

    Example: kernels-core compat wheel --version 0.18.2 -o wheels
    """
    from kernels_core.compat.wheel import write_wheel

    try:
        path = write_wheel(version, directory)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--version") from None
    text = (
        f"Wrote {path}. It replaces Hugging Face kernels where it is installed: pip install {path}"
    )
    show({"wheel": str(path)}, text, as_json)


@main.command()
@click.argument("subject", required=False)
@click.option("--revision", help="Branch, tag or commit on the Hub; its newest version otherwise.")
@click.option(
    "--variant",
    "variants",
    multiple=True,
    metavar="PATTERN",
    help="Check builds by name, such as 'torch213-*'; repeatable.",
)
@click.option("--run", is_flag=True, help="Also load and run the build for this machine.")
@click.option("--select", multiple=True, metavar="RULE", help="Apply only these rules or families.")
@click.option("--ignore", multiple=True, metavar="RULE", help="Skip these rules or families.")
@click.option(
    "--format",
    "output",
    type=click.Choice(["text", "json", "sarif", "github"]),
    default="text",
    show_default=True,
    help="Format of the output.",
)
@click.option("--json", "as_json", is_flag=True, help="The same as --format json.")
@click.option("--list-rules", is_flag=True, help="Print all rules and exit.")
def check(
    subject: str | None,
    revision: str | None,
    variants: tuple[str, ...],
    run: bool,
    select: tuple[str, ...],
    ignore: tuple[str, ...],
    output: str,
    as_json: bool,
    list_rules: bool,
) -> None:
    """Check whether a kernel repository would load everywhere that it claims to.

    SUBJECT is a directory with a kernel repository, one build of it, a single file of native code,
    or org/name on the Hub. Without --run, nothing of it is imported. RULE may be repeated, or be
    several names separated by commas.

    The exit status is 0 if nothing is found, 1 if something is, and 2 if it could not be checked.
    """
    from kernels_core.cli import check as command

    output = "json" if as_json else output
    if list_rules:
        click.echo(command.rules_as(output))
        return
    if subject is None:
        raise click.UsageError("Name what to check: a directory, a file, or org/name.")
    with only_the_result_on_stdout():
        report = command.checked(
            subject,
            revision=revision,
            variants=variants,
            run=run,
            select=select,
            ignore=ignore,
        )
    click.echo(command.rendered(report, output, colour=has_colours()))
    sys.exit(0 if report.clean else 1)
