"""`check`: facts are gathered, and the rules judge them."""

from __future__ import annotations

import datetime
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import attrs

from kernels_core.check.facts.operators import Operators, PythonPackage
from kernels_core.check.facts.python_files import PythonFile, read_python_file
from kernels_core.check.facts.subject import Build, Repository, read_repository
from kernels_core.check.report import Finding, Report
from kernels_core.check.rule import Problem, Rule, Scope, chosen_rules, judged
from kernels_core.errors import CheckError

Progress = Callable[[str, int, int], None]
"""Is told what is looked at now, and how many files of how many are done."""


def check(
    subject: str | os.PathLike[str],
    *,
    revision: str | None = None,
    variants: Iterable[str] = (),
    run: bool = False,
    select: Iterable[str] = (),
    ignore: Iterable[str] = (),
    progress: Progress | None = None,
) -> Report:
    """Check whether a kernel repository would load everywhere that it claims to.

    Nothing of the repository is imported or run unless `run` is given, and then in a process of
    its own.

    Args:
        subject: a directory with a kernel repository, or one build of it; a single file of native
            code; or "org/name" on the Hub, where no such path exists.
        revision: branch, tag or commit of a repository on the Hub; its newest version by default.
        variants: shell patterns of the builds to check; empty for all.
        run: also load the build that fits this machine, and try what it claims.
        select: ids or families of rules to judge by; empty for all.
        ignore: ids or families of rules to leave out of these.
        progress: told of each file before it is read.

    Returns:
        What was found.

    Raises:
        CheckError: it could not be checked: there is no such repository, it cannot be read, the Hub
            does not answer, a revision is given of what is not on the Hub, or what checks need is
            not installed.
        ValueError: no rule or family has a name that is selected or ignored.

    Example:
        >>> import tempfile
        >>> from kernels_core.check import check
        >>> build = Path(tempfile.mkdtemp(), "build", "torch-universal")
        >>> build.mkdir(parents=True)
        >>> _ = (build / "__init__.py").write_text("import os")
        >>> [finding.rule.id for finding in check(build, select=["layout"]).findings]
        []
    """
    rules = chosen_rules(select, ignore)
    patterns = tuple(variants)
    path = Path(subject).expanduser()
    if path.exists() and revision is not None:
        raise CheckError(
            f"{path} is on this machine, where repositories have no revision {revision!r}.",
            path=path,
        )
    if path.is_dir():
        repository = read_repository(path, variants=patterns)
        report = _check_repository(repository, rules, run=run, progress=progress)
        return attrs.evolve(report, root=str(repository.root))
    if path.exists():
        return _check_file(path, rules)
    from kernels_core.check.facts.hub import fetched

    with fetched(str(subject), revision, patterns, progress) as repository:
        return _check_repository(repository, rules, run=run, progress=progress)


def _check_repository(
    repository: Repository, rules: tuple[Rule, ...], *, run: bool, progress: Progress | None
) -> Report:
    from kernels_core.check.rules.completeness import outdated

    findings = [
        Finding(rule, problem, _variant_of(problem, repository))
        for rule, problem in judged(rules, Scope.REPOSITORY, repository)
    ]
    read: Counter[Scope] = Counter()
    count = sum(1 for build in repository.builds for _ in build.files())
    done = 0
    operators: list[Operators] = []
    for build in repository.builds:
        findings += _judge(rules, Scope.BUILD, build, build)
        findings += _judge_files(build, rules, read, _from(progress, done, count), operators)
        done += sum(1 for _ in build.files())
    findings += [
        Finding(rule, problem, _variant_of(problem, repository))
        for rule, problem in judged(rules, Scope.PACKAGES, tuple(operators))
    ]
    not_judged: tuple[str, ...] = ()
    if any(rule.family == "completeness" for rule in rules):
        not_judged = outdated(repository, datetime.date.today())
    to_run = {rule.id for rule in rules if rule.scope is Scope.RUN}
    if run and to_run:
        from kernels_core.check.run.facts import observe

        observation = observe(repository, to_run)
        findings += [
            Finding(r, p, observation.variant) for r, p in judged(rules, Scope.RUN, observation)
        ]
        not_judged += observation.not_judged
    return Report(
        repository.subject,
        tuple(sorted(findings, key=_place)),
        tuple(build.name for build in repository.builds),
        read[Scope.NATIVE],
        read[Scope.PYTHON],
        not_judged,
    )


def _judge_files(
    build: Build,
    rules: tuple[Rule, ...],
    read: Counter[Scope],
    tell: Callable[[str, int], None],
    operators: list[Operators],
) -> Iterator[Finding]:
    """Read the files of a build that some rule is about, each once, and judge them."""
    from kernels_core.check.native.facts import NativeBuild
    from kernels_core.check.native.reading import is_native, read_native

    wanted = {rule.scope for rule in rules}
    wants_native = not wanted.isdisjoint({Scope.NATIVE, Scope.NATIVE_BUILD})
    wants_python = not wanted.isdisjoint({Scope.PYTHON, Scope.PACKAGE, Scope.PACKAGES})
    device_code: set[str] = set()
    python_files: list[PythonFile] = []
    python_size = 0
    for number, entry in enumerate(build.files()):
        tell(entry.path, number)
        file = build.directory / build.inner(entry)
        if entry.name.endswith(".py"):
            if wants_python:
                read[Scope.PYTHON] += 1
                python_files.append(read_python_file(entry.path, file, build, python_size))
                python_size += entry.size
                yield from _judge(rules, Scope.PYTHON, python_files[-1], build)
        elif wants_native and is_native(file):
            read[Scope.NATIVE] += 1
            for module in read_native(entry.path, file, build):
                yield from _judge(rules, Scope.NATIVE, module, build)
                device_code.update(module.image.device_code if module.image else ())
    native = NativeBuild(build, tuple(sorted(device_code)))
    yield from _judge(rules, Scope.NATIVE_BUILD, native, build)
    package = PythonPackage(build, tuple(python_files))
    yield from _judge(rules, Scope.PACKAGE, package, build)
    if Scope.PACKAGES in wanted:
        operators.append(package.operators)


def _from(progress: Progress | None, done: int, count: int) -> Callable[[str, int], None]:
    """Progress within a build, of which `done` files of `count` came before."""

    def tell(path: str, number: int) -> None:
        if progress:
            progress(path, done + number, count)

    return tell


def _place(finding: Finding) -> tuple[str, str, int]:
    return finding.variant or "", finding.problem.path, finding.problem.line or 0


def _check_file(path: Path, rules: tuple[Rule, ...]) -> Report:
    from kernels_core.check.native.reading import is_native, read_native

    # Opening a named pipe would wait for somebody to write into it.
    if not path.is_file() or not is_native(path):
        raise CheckError(
            f"{path} is no native code: expected a library in the format of Linux, macOS or "
            f"Windows, or a directory with a kernel repository.",
            path=path,
        )
    findings: list[Finding] = []
    for module in read_native(path.name, path, None):
        findings += _judge(rules, Scope.NATIVE, module, None)
    return Report(str(path), tuple(findings), native_modules=1, root=str(path.absolute().parent))


def _judge(
    rules: tuple[Rule, ...], scope: Scope, facts: object, build: Build | None
) -> Iterator[Finding]:
    variant = build.name if build else None
    return (Finding(rule, problem, variant) for rule, problem in judged(rules, scope, facts))


def _variant_of(problem: Problem, repository: Repository) -> str | None:
    """The build that a problem of the whole repository lies in, if it lies in one."""
    folder, _, inside = problem.path.partition("/")
    name = inside.partition("/")[0]
    return name if folder == "build" and name in repository.all_variants else None
