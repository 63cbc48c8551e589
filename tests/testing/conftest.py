"""Copies of the real plugins, each installed separately, and the results of the kit for them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from xml.etree import ElementTree

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
SOURCES = {
    **{path.name: path for path in ROOT.glob("backends/*") if (path / "pyproject.toml").is_file()},
    "acme": ROOT / "tests/plugins/kernels-backend-acme",
}

# For the process that checks the copies of one plugin: the copy under test comes first on the path,
# and is imported anew.
CONFTEST = """
import importlib, sys
import pytest

@pytest.fixture(scope="class", autouse=True)
def installed(request):
    site = str(request.path.parents[1] / "site")
    sys.path.insert(0, site)
    importlib.invalidate_caches()
    yield
    sys.path.remove(site)
    for name in list(sys.modules):
        if name.startswith("kernels_backend_"):
            del sys.modules[name]
"""


Edit = tuple[str, str, str]
"""File, the text that it has once ("" removes the file), and its replacement."""


def apply(edit: Edit, folder: Path) -> None:
    file, old, new = edit
    (path,) = folder.rglob(file)
    if not old:
        path.unlink()
        return
    text = path.read_text("utf-8")
    assert text.count(old) == 1, f"{text.count(old)} times in {path}: {old!r}"
    path.write_text(text.replace(old, new), "utf-8")


def install_copy(plugin: str, folder: Path, edits: Sequence[Edit]) -> Path:
    """Copy a plugin as a distribution of its own, with its conformance test beside it."""
    source = SOURCES[plugin]
    project = tomllib.loads((source / "pyproject.toml").read_text("utf-8"))["project"]
    name, version = project["name"], project["version"]
    package = name.replace("-", "_")
    site, tests = folder / "site", folder / "tests"
    leave = shutil.ignore_patterns("__pycache__")
    shutil.copytree(source / package, site / package, ignore=leave)
    tests.mkdir()
    for file in ("test_conformance.py", "hosts.json"):
        shutil.copy(source / "tests" / file, tests / file)
    info = site / f"{package}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    lines = [
        line
        for group, entries in project["entry-points"].items()
        for line in (f"[{group}]", *(f"{entry} = {value}" for entry, value in entries.items()))
    ]
    (info / "entry_points.txt").write_text("\n".join([*lines, ""]))
    for edit in edits:
        apply(edit, folder)
    return site


Verdicts = Mapping[str, Mapping[str, str]]
"""By name of a copy: the rules that are broken, with the messages of their failures."""


def judge(folder: Path, path: Sequence[Path]) -> Verdicts:
    """Run the conformance tests of all copies in a folder in one process."""
    (folder / "conftest.py").write_text(textwrap.dedent(CONFTEST))
    (folder / "pytest.ini").write_text("[pytest]\naddopts = --import-mode=importlib\n")
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("KERNELS_", "PYTEST"))}
    entries = [*map(str, path), *filter(None, [clean.get("PYTHONPATH")])]
    process = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--junitxml=out.xml"],
        cwd=folder,
        env={**clean, "PYTHONPATH": os.pathsep.join(entries)},
        capture_output=True,
        text=True,
    )
    assert process.returncode in (0, 1), process.stdout + process.stderr
    verdicts: dict[str, dict[str, str]] = {}
    for case in ElementTree.parse(folder / "out.xml").iter("testcase"):
        broken = verdicts.setdefault(case.attrib["classname"].split(".")[0], {})
        rule = case.attrib["name"].partition("[")[0].removeprefix("test_").replace("_", "-")
        for problem in (*case.findall("failure"), *case.findall("error")):
            broken[rule] = f"{problem.attrib['message']}\n{problem.text}"
    return verdicts


class Kit:
    """Checks copies of plugins in a few processes: starting one takes longer than the check."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._futures: dict[str, Future[Verdicts]] = {}

    def start(self, copies: Mapping[str, tuple[str, Sequence[Edit]]]) -> None:
        """Begin to check copies, each of a plugin and with edits, by its name."""
        plugins = sorted({plugin for plugin, _ in copies.values()})
        groups: dict[str, dict[str, Path]] = {}
        for name, (plugin, edits) in copies.items():
            # Where torch itself imports the package, copies cannot share a process.
            alone = "torch.backends" in (SOURCES[plugin] / "pyproject.toml").read_text("utf-8")
            group = name if alone else f"shared-{plugins.index(plugin) % 2}"
            site = install_copy(plugin, self._folder / group / name, edits)
            groups.setdefault(group, {})[name] = site
        pool = ThreadPoolExecutor(3)
        for group in sorted(groups, key=lambda group: len(groups[group]), reverse=True):
            sites = groups[group]
            path = [] if group.startswith("shared") else list(sites.values())
            future = pool.submit(judge, self._folder / group, path)
            self._futures.update(dict.fromkeys(sites, future))
        pool.shutdown(wait=False)

    def broken_rules(self, name: str) -> Mapping[str, str]:
        """The rules that a copy breaks, with the messages."""
        return self._futures[name].result()[name]


@pytest.fixture(scope="session")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Kit:
    return Kit(tmp_path_factory.mktemp("copies"))
