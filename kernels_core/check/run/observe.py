"""Running the build for this machine, in processes of its own, and collecting what they report."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Container, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from kernels_core.check.facts.observation import Failure, Observation
from kernels_core.check.facts.operators import unique_part
from kernels_core.check.facts.repository import Build, Repository
from kernels_core.check.run.process import Event, Worked, work
from kernels_core.errors import KernelsError, NoFittingBuildError
from kernels_core.loading.loaded import check_packages
from kernels_core.plugins import registry
from kernels_core.repository.local import LocalRepository

_LOADING_LIMIT = 300
_TESTS_LIMIT = 1800
_FIRST_DEVICE = 0

# The rules that need the tests of the repository.
_BY_TESTS = ("run-tests", "run-opcheck", "run-compile", "run-gradient")

# Triton counts as part of torch, but not every build of torch installs it.
_WITHOUT_TRITON = re.compile(r"ModuleNotFoundError: No module named 'triton[.']")


def observe(repository: Repository, rules: Container[str]) -> Observation:
    """Run the build that fits this machine, as far as the rules with the given ids need it."""
    try:
        build, backend = _fitting(repository)
    except KernelsError as error:
        return Observation(None, not_judged=(f"run: {error}",))
    run = _Run(repository, build, backend)
    run.load()
    if run.imported:
        if "run-beside" in rules:
            run.beside()
        if any(rule in rules for rule in _BY_TESTS):
            run.test()
    else:
        run.skip("everything after the import", "it failed")
    metadata = build.metadata
    return Observation(
        build.name,
        build.path,
        metadata.id if metadata else None,
        metadata.python_depends if metadata else (),
        run.namespaces,
        tuple(run.failures),
        tuple(run.not_judged),
    )


def _fitting(repository: Repository) -> tuple[Build, str]:
    """The best requested build for this machine, and its backend."""
    backend = registry().default_backend()
    decisions = LocalRepository(repository.root).decisions(backend, _FIRST_DEVICE)
    builds = {build.name: build for build in repository.builds}
    for decision in decisions:
        if decision.accepted and decision.name in builds:
            build = builds[decision.name]
            package = _package(repository, build)
            check_packages(
                LocalRepository(build.directory, package).best_build(backend, _FIRST_DEVICE)
            )
            return build, backend.name
    reasons = [f"{each.name}: {each.reason}" for each in decisions if each.name in builds]
    raise NoFittingBuildError(
        f"no build fits backend {backend.name!r} on this machine ({'; '.join(reasons)})",
        repository=repository.subject,
        decisions=decisions,
    )


def _package(repository: Repository, build: Build) -> str | None:
    name = repository.name.replace("-", "_")
    return name if name in build.packages and "" not in build.packages else None


class _Run:
    """The steps of running a build, and what they show."""

    def __init__(self, repository: Repository, build: Build, backend: str) -> None:
        self._repository = repository
        self._build = build
        self._request = {
            "build": str(build.directory),
            "backend": backend,
            "package": _package(repository, build),
        }
        self.imported = False
        self.namespaces: tuple[str, ...] = ()
        self.failures: list[Failure] = []
        self.not_judged: list[str] = []

    def load(self) -> None:
        """Import it alone."""
        worked = work("import", self._request, _LOADING_LIMIT)
        names = [name for event in worked.of("operators") for name in event["names"]]
        self.namespaces = tuple(dict.fromkeys(name.partition("::")[0] for name in names))
        self._note(worked, "import")
        self.imported = not any(each.kind == "import" for each in self.failures)
        if any(_WITHOUT_TRITON.match(each["text"]) for each in worked.of("error")):
            self.failures = []
            self.skip("the import", "it needs Triton, which is not installed")

    def beside(self) -> None:
        """Import it together with another version of it."""
        metadata = self._build.metadata
        native = self._build.has_native_code
        if native and not (metadata and metadata.id):
            self.skip("two versions side by side", "native code without an 'id' in its metadata")
            return
        bare = [name for name in self.namespaces if not unique_part(name)]
        if bare:
            why = f"both would use torch.ops.{bare[0]} (namespace-unique)"
            self.skip("two versions side by side", why)
            return
        with tempfile.TemporaryDirectory(prefix="kernels-check-") as folder:
            other = Path(folder, "other", "build", self._build.name)
            shutil.copytree(self._build.directory, other, copy_function=_linked)
            if not native:
                self._rename(other)
            worked = work("beside", {**self._request, "other": str(other)}, _LOADING_LIMIT)
        for event in worked.of("mixed"):
            files = ", ".join(event["files"])
            text = f"a second version gets modules of the first instead of its own: {files}"
            self._fail("beside", "importing two versions", text)
        if native and worked.of("refused"):
            self.skip(
                "two versions side by side", "native code cannot be changed into another version"
            )
        self._note(worked, "beside")

    def _rename(self, directory: Path) -> None:
        """Make a copy into another version, whose operators have another namespace."""
        for name in self.namespaces:
            part = unique_part(name)
            other = part[:-1] + ("1" if part.endswith("0") else "0")
            for file in (*directory.rglob("*.py"), directory / "metadata.json"):
                content = file.read_bytes() if file.is_file() else b""
                if part.encode() in content:
                    file.unlink()  # it may be a link to the original
                    file.write_bytes(content.replace(part.encode(), other.encode()))

    def test(self) -> None:
        """Run the repository's own tests, and prove claims with the calls that they make."""
        tests = "the forward of layers, operators, torch.compile and gradients"
        if not (self._repository.root / "tests").is_dir():
            self.skip(tests, "the repository has no tests (no directory 'tests' next to 'build')")
            return
        if find_spec("pytest") is None:
            self.skip(tests, "pytest, which runs the repository's tests, is not installed")
            return
        names = sorted(_names(self._repository, self._build))
        request = {**self._request, "root": str(self._repository.root), "names": names}
        worked = work("tests", request, _TESTS_LIMIT)
        for event in worked.of("test"):
            path, _, _ = event["name"].partition("::")
            self._fail("test", event["name"], event["text"], path)
        for event in worked.of("uncollected"):
            self._uncollected(event)
        for event in worked.of("tested"):
            if not event["passed"] and not event["failed"]:
                why = f"{event['skipped']} skipped; pytest exited with status {event['code']}"
                self.skip(tests, f"no test ran ({why})")
        for event in worked.of("unproved"):
            self.skip(event["what"], event["why"])
        for kind in ("opcheck", "compile", "gradient"):
            for event in worked.of(kind):
                self._fail(kind, event["name"], event["text"])
        self._note(worked, "test")

    def _uncollected(self, event: Event) -> None:
        text = event["text"]
        missing = text.startswith(("ModuleNotFoundError", "ImportError"))
        own = any(name in text for name in _names(self._repository, self._build))
        if missing and not own:
            self.skip(event["name"], text)
        else:
            self._fail("test", event["name"], text, event["name"], event["line"])

    def _note(self, worked: Worked, kind: str) -> None:
        """Collect what every step may report."""
        for event in worked.of("error"):
            path = f"{self._build.path}/{event['file']}" if event["file"] else ""
            self._fail(kind, "the import", event["text"], path, event["line"])
        for event in worked.of("layer"):
            if event["error"]:
                self._fail("layer", event["name"], event["error"])
        if worked.ended:
            doing: dict[str, Any] = worked.doing or {"kind": kind, "what": "the beginning"}
            last = worked.output.strip().splitlines()[-1:]
            said = f"; its last output was {last[0][:200]!r}" if last else ""
            text = f"the process ended ({worked.ended}){said}"
            self._fail(doing["kind"], doing["what"], text)
            if kind == "test":
                self.skip(f"everything after {doing['what']}", "the process ended")

    def _fail(
        self, kind: str, what: str, text: str, path: str = "", line: int | None = None
    ) -> None:
        self.failures.append(Failure(kind, what, text, path or self._build.path, line))

    def skip(self, what: str, why: str) -> None:
        """Record what was not tried, with the reason."""
        self.not_judged.append(f"run: {what}: {why}")


def _names(repository: Repository, build: Build) -> Iterator[str]:
    """The names by which tests may import the kernel."""
    named = [repository.name, build.metadata.name if build.metadata else None, *build.packages]
    return iter({name.replace("-", "_") for name in named if name})


def _linked(source: str, target: str) -> None:
    """Copy a file, as a hard link where possible."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
