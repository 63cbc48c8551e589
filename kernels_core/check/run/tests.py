"""Running a repository's own tests, with the chosen build under the name that they import."""

from __future__ import annotations

import importlib
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

# The files in which a repository may configure pytest.
_CONFIGURATIONS = ("pytest.toml", ".pytest.toml", "pytest.ini", ".pytest.ini")

Tell = Callable[..., None]


def run_tests(root: Path, names: Sequence[str], module: ModuleType, tell: Tell) -> None:
    """Run the tests in `tests`, and tell what came of each.

    Args:
        root: the repository.
        names: the names under which the tests may import the kernel.
        module: the kernel.
        tell: is told of `test` and `uncollected`, and at the end of `tested`.
    """
    import pytest  # optional: without it, everything else is tried

    sys.meta_path.insert(0, _Alias(names, module))
    configuration = _configuration(root)
    os.chdir(root)
    with tempfile.TemporaryDirectory() as folder:
        if configuration is None:
            # Else pytest would look for one above the repository.
            configuration = Path(folder, "pytest.ini")
            configuration.write_text("[pytest]\n", "utf-8")
        arguments = ["-q", "-p", "no:cacheprovider", "-c", str(configuration)]
        arguments += [f"--rootdir={root}", str(root / "tests")]
        observer = _Observer(tell)
        code = pytest.main(arguments, plugins=[observer])
    tell("tested", code=int(code), **observer.counts)


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
    """A plugin of pytest."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self.counts = {"passed": 0, "failed": 0, "skipped": 0}

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """Called before each test."""
        self._tell("begin", kind="test", what=nodeid)

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Called after the set-up, the call and the tear-down of each test."""
        if report.outcome != "passed":
            self.counts[report.outcome] += 1
        elif report.when == "call":
            self.counts["passed"] += 1
        if report.failed:
            self._tell("test", name=report.nodeid, **_told(report))

    def pytest_collectreport(self, report: Any) -> None:
        """Called for each file whose tests were collected."""
        if report.failed:
            self._tell("uncollected", name=report.nodeid, **_told(report))


def _told(report: Any) -> dict[str, object]:
    """Where a test failed, and the first line of what it raised."""
    crash = getattr(report.longrepr, "reprcrash", None)
    text = crash.message if crash else str(report.longrepr)
    line = crash.lineno if crash else None
    raised = [each[1:].strip() for each in text.splitlines() if each.startswith("E ")]
    lines = raised or [each for each in text.splitlines() if each.strip()] or ["failed"]
    return {"text": (lines[-1] if raised else lines[0])[:500], "line": line}


class _Alias:
    """Finds the modules of a kernel under the names that its tests import it by."""

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
    """Puts a module that has its own name in the place of one with another."""

    def __init__(self, name: str) -> None:
        self._name = name

    def create_module(self, spec: ModuleSpec) -> None:
        """Leave it to the import system to make a module, which is then replaced."""

    def exec_module(self, module: ModuleType) -> None:
        """Called by the import system, which takes what stands in `sys.modules` after this."""
        sys.modules[module.__name__] = importlib.import_module(self._name)
