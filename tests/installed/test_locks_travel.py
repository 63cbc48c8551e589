"""A project's lock is part of its package, with each build backend, and is found there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

A, B = "a" * 40, "b" * 40
MODULE = """
from kernels_core.locks.installed import find_lock


def kernel():
    return find_lock().kernel("org/name")
"""
PYPROJECT = """
[build-system]
requires = ["kernels-core", "{backend}"]
build-backend = "{module}"

[project]
name = "acme-{backend}"
version = "1.0"

[tool.kernels.dependencies]
"org/name" = 1
{also}
"""
BACKENDS = {
    "setuptools": ("setuptools.build_meta", ""),
    "hatchling": (
        "hatchling.build",
        """
        [tool.hatch.build]
        dev-mode-dirs = ["src"]

        [tool.hatch.build.targets.wheel]
        packages = ["src/acme_hatchling"]

        [tool.hatch.build.targets.wheel.extra-metadata]
        "kernels.lock" = "kernels.lock"
        "kernels.lock.digests.json" = "kernels.lock.digests.json"
        """,
    ),
}
ASK = "import acme_{0} as acme; kernel = acme.kernel(); tell([kernel.commit, kernel.variants])"


@pytest.fixture(scope="module")
def environment(make_environment, core_wheel):
    """The core and the build backends, without any backend plugin."""
    made = make_environment()
    made.uninstall("setuptools")  # an old one comes with environments before Python 3.12
    names = [requirement.name for requirement in core_wheel.requirements if not requirement.marker]
    made.borrow(*names, *BACKENDS)
    made.install("--no-deps", "--no-index", core_wheel.path)
    return made


def write_lock(project: Path, commit: str) -> None:
    dependency = {"repo-id": "org/name", "version": 1}
    build = {"hash": f"sha256-{commit[0] * 64}", "hash_type": "git_lfs_concat"}
    kernel = {
        "dependency": dependency,
        "commit": commit,
        "direct": True,
        "depends": [],
        "variants": {"torch-cpu": build},
    }
    (project / "kernels.lock").write_text(
        json.dumps([{"dependency": dependency, "lock": {"commit": commit}}])
    )
    (project / "kernels.lock.digests.json").write_text(
        json.dumps({"format": 1, "kernels": [kernel]})
    )


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("how", [(), ("--editable",)], ids=["wheel", "editable"])
def test_an_installed_project_includes_its_lock(environment, tmp_path, backend, how):
    module, also = BACKENDS[backend]
    source = tmp_path / "src" / f"acme_{backend}" / "__init__.py"
    source.parent.mkdir(parents=True)
    source.write_text(MODULE)
    also = "\n".join(line.strip() for line in also.splitlines())
    pyproject = PYPROJECT.format(backend=backend, module=module, also=also)
    (tmp_path / "pyproject.toml").write_text(pyproject)
    write_lock(tmp_path, A)
    environment.install("--no-deps", "--no-index", "--no-build-isolation", *how, tmp_path)
    digests = {"torch-cpu": f"sha256-{A[0] * 64}"}
    assert environment.run(ASK.format(backend)) == [A, digests]


def test_setuptools_removes_a_lock_that_no_longer_exists_and_says_what_is_missing(
    environment, tmp_path
):
    pyproject = PYPROJECT.format(backend="setuptools", module=BACKENDS["setuptools"][0], also="")
    (tmp_path / "pyproject.toml").write_text(pyproject)
    (tmp_path / "acme.py").touch()
    write_lock(tmp_path, A)
    egg_info = "from setuptools import setup; setup(script_args=['-q', 'egg_info'])"
    program = f"import os; os.chdir({str(tmp_path)!r}); {egg_info}"
    environment.run(program + "; tell(None)")
    write_lock(tmp_path, B)
    environment.run(program + "; tell(None)")
    (metadata,) = tmp_path.glob("*.egg-info")
    assert json.loads((metadata / "kernels.lock").read_text())[0]["lock"] == {"commit": B}
    assert (metadata / "kernels.lock.digests.json").is_file()
    (tmp_path / "kernels.lock").unlink()
    (tmp_path / "kernels.lock.digests.json").unlink()
    said = environment.run(
        "import logging; said = []\n"
        "class Handler(logging.Handler):\n"
        "    def emit(self, record): said.append(record.getMessage())\n"
        "logging.getLogger('kernels_core').addHandler(Handler())\n"
        f"{program}; tell(said)"
    )
    assert not list(metadata.glob("kernels.lock*"))
    assert any("kernels-core lock" in line for line in said)


def test_a_build_of_a_project_without_kernels_is_left_alone(environment, tmp_path):
    (tmp_path / "plain.py").touch()
    egg_info = "from setuptools import setup; setup(name='plain', script_args=['-q', 'egg_info'])"
    environment.run(f"import os; os.chdir({str(tmp_path)!r}); {egg_info}; tell(None)")
    (metadata,) = tmp_path.glob("*.egg-info")
    assert not list(metadata.glob("kernels*"))
