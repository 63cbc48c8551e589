"""Running a repository's own tests, with the chosen build under the name that they import."""

from __future__ import annotations

import importlib
import os
import sys
import tempfile
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

from kernels_core.check.run.process import ReportEvent

# The files in which a repository may configure pytest.
_CONFIGURATIONS = ("pytest.toml", ".pytest.toml", "pytest.ini", ".pytest.ini")


def run_tests(root: Path, names: Sequence[str], module: ModuleType, report: ReportEvent) -> None:
    """Run the tests in `tests`, where `names` import the kernel.

    Reports `test` and `uncollected` events for failures, and one `tested` at the end.
    """
    import pytest  # optional: without it, all other checks still run

    sys.meta_path.insert(0, _Alias(names, module))
    configuration = _configuration(root)
    os.chdir(root)
    with tempfile.TemporaryDirectory() as folder:
        if configuration is None:
            # Otherwise pytest would look for one above the repository.
            configuration = Path(folder, "pytest.ini")
            configuration.write_text("[pytest]\n", "utf-8")
        arguments = ["-q", "-p", "no:cacheprovider", "-c", str(configuration)]
        arguments += [f"--rootdir={root}", str(root / "tests")]
        observer = _Observer(report)
        code = pytest.main(arguments, plugins=[observer])
    report("tested", code=int(code), **observer.counts)


def _configuration(root: Path) -> Path | None:
    """The file in which a repository configures pytest."""
    for name in _CONFIGURATIONS:
        if (root / name).is_file():
            return root / name
    project = root / "pyproject.toml"
    if project.is_file() and "[tool.pytest" in project.read_text("utf-8", "replace"):
        return project
    return None


class _Observer:
    """A pytest plugin that reports failures."""

    def __init__(self, report: ReportEvent) -> None:
        self._report = report
        self.counts = {"passed": 0, "failed": 0, "skipped": 0}

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """Called before each test."""
        self._report("begin", kind="test", what=nodeid)

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Called after the set-up, the call and the tear-down of each test."""
        if report.outcome != "passed":
            self.counts[report.outcome] += 1
        elif report.when == "call":
            self.counts["passed"] += 1
        if report.failed:
            self._report("test", name=report.nodeid, **_failure(report))

    def pytest_collectreport(self, report: Any) -> None:
        """Called for each file whose tests were collected."""
        if report.failed:
            self._report("uncollected", name=report.nodeid, **_failure(report))


def _failure(report: Any) -> dict[str, object]:
    """Where a test failed, and the first line of its error."""
    crash = getattr(report.longrepr, "reprcrash", None)
    text = crash.message if crash else str(report.longrepr)
    line = crash.lineno if crash else None
    raised = [each[1:].strip() for each in text.splitlines() if each.startswith("E ")]
    lines = raised or [each for each in text.splitlines() if each.strip()] or ["failed"]
    return {"text": (lines[-1] if raised else lines[0])[:500], "line": line}


class _Alias:
    """Finds the modules of a kernel under the names by which its tests import it."""

    def __init__(self, names: Sequence[str], module: ModuleType) -> None:
        self._names = frozenset(names)
        self._module = module

    def find_spec(
        self, fullname: str, path: object = None, target: object = None
    ) -> ModuleSpec | None:
        """Called by the import system for every module that is not imported yet."""
        top, _, rest = fullname.partition(".")
        if top not in self._names:
            return None
        name = f"{self._module.__name__}.{rest}" if rest else self._module.__name__
        loader: Any = _AliasLoader(name)
        return ModuleSpec(fullname, loader, is_package=True)


class _AliasLoader:
    """Loads the kernel's module under an alias."""

    def __init__(self, name: str) -> None:
        self._name = name

    def create_module(self, spec: ModuleSpec) -> None:
        """Let the import system create a module, which is then replaced."""

    def exec_module(self, module: ModuleType) -> None:
        """Called by the import system, which uses the entry in `sys.modules` after this."""
        sys.modules[module.__name__] = importlib.import_module(self._name)
