"""`check`: gathers facts and applies the rules to them."""

from __future__ import annotations

import datetime
import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import attrs

from kernels_core.check.facts.native import NativeBuild
from kernels_core.check.facts.operators import Operators, PythonPackage
from kernels_core.check.facts.python_files import PythonFile, read_python_file
from kernels_core.check.facts.repository import Build, Entry, Repository, read_repository
from kernels_core.check.native.reading import is_native, read_native
from kernels_core.check.report import Finding, Report
from kernels_core.check.rule import Problem, Rule, Scope, judged
from kernels_core.check.rules import selected_rules
from kernels_core.check.rules.completeness import outdated
from kernels_core.environment import expand_home
from kernels_core.errors import CheckError

Progress = Callable[[str, int, int], None]
"""Called with the path that is checked next, the number of files done, and the total number."""


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

    No code of the repository is imported or run unless `run` is given, and then only in a separate
    process.

    Args:
        subject: a directory with a kernel repository, or one build of it; a single file of native
            code; or, if no such path exists, "org/name" on the Hub.
        revision: branch, tag or commit of a repository on the Hub; its newest version by default.
        variants: shell patterns for the names of builds to check; empty for all.
        run: also run the build that fits this machine, and test what it claims.
        select: ids or families of rules to check; empty for all.
        ignore: ids or families of rules to skip.
        progress: called before each file is read.

    Returns:
        The findings.

    Raises:
        CheckError: the check failed: there is no such repository, it cannot be read, a request to
            the Hub fails, `revision` is given for a local path, or a library is not installed.
        ValueError: a name in `select` or `ignore` is no rule or family.

    Example:
        >>> import tempfile
        >>> from kernels_core.check import check
        >>> build = Path(tempfile.mkdtemp(), "build", "torch-universal")
        >>> build.mkdir(parents=True)
        >>> _ = (build / "__init__.py").write_text("import os")
        >>> [finding.rule.id for finding in check(build, select=["layout"]).findings]
        []
    """
    rules = selected_rules(select, ignore)
    patterns = tuple(variants)
    path = expand_home(subject, "subject")
    if path.exists() and revision is not None:
        raise CheckError(
            f"{path} is a local path, which has no revision {revision!r}; only repositories on the "
            f"Hub have revisions.",
            path=path,
        )
    if path.is_dir():
        repository = read_repository(path, variants=patterns)
        report = _check_repository(repository, rules, run=run, progress=progress)
        return attrs.evolve(report, root=str(repository.root))
    if path.exists():
        return _check_file(path, rules)
    # Imported on use, as is `observe`: together they take a fifth of the time of a small check.
    from kernels_core.check.facts.hub import fetched

    with fetched(str(subject), revision, patterns) as repository:
        return _check_repository(repository, rules, run=run, progress=progress)


def _check_repository(
    repository: Repository, rules: tuple[Rule, ...], *, run: bool, progress: Progress | None
) -> Report:
    checked = _Checked(rules)
    checked.judge_whole(Scope.REPOSITORY, repository, repository)
    count = sum(len(tuple(build.files())) for build in repository.builds)
    done = itertools.count()
    for build in repository.builds:
        checked.judge(Scope.BUILD, build, build.name)
        for entry in checked.judge_files(build):
            if progress:
                progress(entry.path, next(done), count)
    checked.judge_whole(Scope.PACKAGES, tuple(checked.operators), repository)
    not_judged = _not_judged(repository, rules)
    if run and checked.judges(Scope.RUN):
        from kernels_core.check.run.observe import observe

        observation = observe(repository, {rule.id for rule in rules if rule.scope is Scope.RUN})
        checked.judge(Scope.RUN, observation, observation.variant)
        not_judged += observation.not_judged
    return Report(
        repository.subject,
        tuple(sorted(checked.findings, key=_place)),
        tuple(build.name for build in repository.builds),
        checked.native_modules,
        checked.python_files,
        not_judged,
    )


def _check_file(path: Path, rules: tuple[Rule, ...]) -> Report:
    # Opening a named pipe would block until something writes to it.
    if not path.is_file() or not is_native(path):
        raise CheckError(
            f"{path} is not native code: expected a library for Linux, macOS or Windows, or a "
            f"directory that contains a kernel repository.",
            path=path,
        )
    checked = _Checked(rules)
    checked.judge_native(path.name, path, None)
    root = str(path.absolute().parent)
    return Report(str(path), tuple(checked.findings), native_modules=1, root=root)


@attrs.define
class _Checked:
    """What has been judged so far, and what was found."""

    rules: tuple[Rule, ...]
    findings: list[Finding] = attrs.field(factory=list)
    native_modules: int = 0
    python_files: int = 0
    operators: list[Operators] = attrs.field(factory=list)

    def judges(self, *scopes: Scope) -> bool:
        return any(rule.scope in scopes for rule in self.rules)

    def judge(self, scope: Scope, facts: object, variant: str | None) -> None:
        for rule, problem in judged(self.rules, scope, facts):
            self.findings.append(Finding(rule, problem, variant))

    def judge_whole(self, scope: Scope, facts: object, repository: Repository) -> None:
        """Judge facts about all builds; each problem may be in a single one."""
        for rule, problem in judged(self.rules, scope, facts):
            self.findings.append(Finding(rule, problem, _variant_of(problem, repository)))

    def judge_files(self, build: Build) -> Iterator[Entry]:
        """Read and judge the files of a build; each one is yielded before it is read."""
        reads_native = self.judges(Scope.NATIVE, Scope.NATIVE_BUILD)
        reads_python = self.judges(Scope.PYTHON, Scope.PACKAGE, Scope.PACKAGES)
        device_code: set[str] = set()
        python: list[PythonFile] = []
        python_size = 0
        for entry in build.files():
            yield entry
            file = build.directory / build.inner(entry)
            if not entry.name.endswith(".py"):
                if reads_native and is_native(file):
                    device_code |= self.judge_native(entry.path, file, build)
            elif reads_python:
                python.append(read_python_file(entry.path, file, build, python_size))
                python_size += entry.size
                self.judge(Scope.PYTHON, python[-1], build.name)
        self.python_files += len(python)
        native = NativeBuild(build, tuple(sorted(device_code)))
        self.judge(Scope.NATIVE_BUILD, native, build.name)
        package = PythonPackage(build, tuple(python))
        self.judge(Scope.PACKAGE, package, build.name)
        if self.judges(Scope.PACKAGES):
            self.operators.append(package.operators)

    def judge_native(self, path: str, file: Path, build: Build | None) -> set[str]:
        """Judge a file of native code. Returns which accelerators it has code for."""
        self.native_modules += 1
        device_code: set[str] = set()
        for module in read_native(path, file, build):
            self.judge(Scope.NATIVE, module, build.name if build else None)
            device_code.update(module.image.device_code if module.image else ())
        return device_code


def _not_judged(repository: Repository, rules: tuple[Rule, ...]) -> tuple[str, ...]:
    if any(rule.family == "completeness" for rule in rules):
        return outdated(repository, datetime.date.today())
    return ()


def _variant_of(problem: Problem, repository: Repository) -> str | None:
    """The build that a problem of the whole repository is in, if it is in one."""
    folder, _, inside = problem.path.partition("/")
    name = inside.partition("/")[0]
    return name if folder == "build" and name in repository.all_variants else None


def _place(finding: Finding) -> tuple[str, str, int]:
    return finding.variant or "", finding.problem.path, finding.problem.line or 0
