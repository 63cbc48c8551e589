"""`kernels-core download`: locked kernels are in the cache before they are used."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hub_server import Hub, forget, kernel_files

from kernels_core.cli.main import main

CPU, GPU = "torch-cpu", "torch213-cxx11-cu130-x86_64-linux"


@pytest.fixture
def project(hub: Hub, tmp_path: Path) -> Path:
    """A project with a lock of org/name, which has two builds, and of what it needs."""
    hub.add("org/base", kernel_files("base"), branch="v1")
    needs = [{"repo-id": "org/base", "version": 1}]
    files = kernel_files("name", kernel_depends=needs, digest=True)
    hub.add("org/name", files | kernel_files("name", variant=GPU), branch="v1")
    folder = tmp_path / "project"
    folder.mkdir()
    table = '[tool.kernels.dependencies]\n"org/name" = 1\n'
    (folder / "pyproject.toml").write_text(table)
    assert run("lock", folder).exit_code == 0
    return folder


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [*map(str, arguments)])


def cached(tmp_path: Path) -> set[str]:
    """The names of the variants whose builds are in the cache."""
    return {
        path.parent.name
        for path in tmp_path.glob("hf-home/hub/kernels--*/snapshots/*/build/*/__init__.py")
    }


def downloaded(output: str) -> list[tuple[str, list[str]]]:
    return [(row["repo_id"], row["variants"]) for row in json.loads(output)["kernels"]]


def test_the_builds_for_this_machine_and_what_they_need_load_without_the_hub(
    hub: Hub, project: Path, tmp_path: Path, fresh_python: Callable[..., Any]
) -> None:
    result = run("download", project, "--backend", "cpu", "--json")
    assert result.exit_code == 0, result.output
    assert downloaded(result.stdout) == [("org/base", [CPU]), ("org/name", [CPU])]
    assert cached(tmp_path) == {CPU}
    hub.stop()
    program = f"""
import json
from pathlib import Path
from kernels_core import load_kernel
kernel = load_kernel("org/name", lockfile=Path({str(project / "kernels.lock")!r}), backend="cpu")
print(json.dumps(kernel.answer))
"""
    assert fresh_python(program) == 42


@pytest.mark.parametrize("option", [["--all-variants"], ["--variant", "torch*"]])
def test_all_variants_include_those_for_other_machines(
    project: Path, tmp_path: Path, option: list[str]
) -> None:
    result = run("download", project, *option, "--json")
    assert downloaded(result.stdout) == [("org/base", [CPU]), ("org/name", [CPU, GPU])]
    assert cached(tmp_path) == {CPU, GPU}


def test_a_pattern_chooses_variants(project: Path, tmp_path: Path) -> None:
    result = run("download", project, "--variant", "*-cu130-*", "--json")
    assert result.exit_code == 0, result.output
    assert downloaded(result.stdout) == [("org/name", [GPU])]
    assert cached(tmp_path) == {GPU}


def test_what_is_cached_is_not_downloaded_again(hub: Hub, project: Path) -> None:
    assert run("download", project, "--all-variants").exit_code == 0
    forget()  # as a new process does
    asked = len(hub.requests)
    assert run("download", project, "--all-variants").exit_code == 0
    assert run("download", project, "--backend", "cpu").exit_code == 0
    assert len(hub.requests) == asked


def test_one_that_fails_does_not_keep_the_others_and_the_status_says_so(
    hub: Hub, project: Path
) -> None:
    lock = json.loads((project / "kernels.lock").read_text())
    gone = {"dependency": {"repo-id": "org/gone", "version": 1}, "lock": {"commit": "a" * 40}}
    (project / "kernels.lock").write_text(json.dumps([*lock, gone]))
    (project / "kernels.lock.digests.json").unlink()
    result = run("download", project, "--backend", "cpu", "--json")
    assert result.exit_code == 1
    report = json.loads(result.stdout)
    assert [row["repo_id"] for row in report["kernels"]] == ["org/base", "org/name"]
    (failure,) = report["failures"]
    assert failure["repo_id"] == "org/gone"
    assert failure["kind"] == "HubNotFoundError"
    assert "org/gone failed. " in run("download", project, "--backend", "cpu").output


@pytest.mark.parametrize("option", [["--backend", "cpu"], ["--all-variants"]])
def test_a_build_that_is_not_the_locked_one_is_not_downloaded(
    hub: Hub, project: Path, tmp_path: Path, option: list[str]
) -> None:
    path = project / "kernels.lock.digests.json"
    digests = json.loads(path.read_text())
    for kernel in digests["kernels"]:
        for build in kernel["variants"].values():
            build["hash"] = f"sha256-{'0' * 64}"
    path.write_text(json.dumps(digests))
    result = run("download", project, *option)
    assert result.exit_code == 1
    assert "the lock expects" in result.output
    assert cached(tmp_path) == set()


def test_a_lock_of_the_older_format_is_downloaded_by_its_digests(
    hub: Hub, project: Path, tmp_path: Path
) -> None:
    digests = json.loads((project / "kernels.lock.digests.json").read_text())
    (base,) = [k for k in digests["kernels"] if k["dependency"]["repo-id"] == "org/base"]
    old = {"repo_id": "org/base", "sha": base["commit"], "variants": base["variants"]}
    (project / "kernels.lock").write_text(json.dumps([old]))
    (project / "kernels.lock.digests.json").unlink()
    assert downloaded(run("download", project, "--all-variants", "--json").stdout) == [
        ("org/base", [CPU])
    ]
    old["variants"][CPU]["hash"] = f"sha256-{'0' * 64}"
    (project / "kernels.lock").write_text(json.dumps([old]))
    assert "the lock expects" in run("download", project, "--all-variants").output


def test_trust_is_checked_before_anything_is_downloaded(
    hub: Hub, project: Path, tmp_path: Path
) -> None:
    hub.publishers["org"] = False
    result = run("download", project, "--all-variants")
    assert result.exit_code == 1
    assert "not trusted" in result.output
    assert cached(tmp_path) == set()
    assert run("download", project, "--all-variants", "--trust", "org").exit_code == 0
    assert cached(tmp_path) == {CPU, GPU}


@pytest.mark.parametrize("arguments", [["--trust", "a/b/c"], ["--all-variants", "--variant", "*"]])
def test_wrong_arguments_are_a_usage_error(project: Path, arguments: list[str]) -> None:
    assert run("download", project, *arguments).exit_code == 2


def test_a_project_without_a_lock_is_told_what_to_do(hub: Hub, tmp_path: Path) -> None:
    result = run("download", tmp_path)
    assert result.exit_code == 1
    assert "kernels-core lock" in result.output


def test_the_table_shows_builds_and_sizes(project: Path) -> None:
    heading, *rows = run("download", project, "--all-variants").output.strip().splitlines()
    assert heading.split() == ["KERNEL", "COMMIT", "BUILDS", "SIZE"]
    assert rows[1].split()[:3] == ["org/name", rows[1].split()[1], f"{CPU},"]


def test_kernels_may_be_named_instead_of_locked(
    hub: Hub, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "kernels.lock").unlink()
    result = run("download", "org/name@1", "--all-variants", "--json")
    assert result.exit_code == 0, result.output
    assert downloaded(result.stdout) == [("org/base", [CPU]), ("org/name", [CPU, GPU])]
    # The name of a directory is that of a project.
    monkeypatch.chdir(tmp_path)
    result = run("download", "project", "--all-variants")
    assert result.exit_code == 1
    assert "kernels.lock" in result.output
    assert run("download", "no-directory", "--all-variants").exit_code == 2


@pytest.mark.parametrize("command", [("download",), ("bundle", "kernels.tar")])
@pytest.mark.parametrize(
    ("options", "variable"), [([], "KERNELS_BACKENDS"), (["--backend", "cuda"], "")]
)
def test_a_machine_without_the_backend_says_how_to_choose_builds(
    hub: Hub,
    project: Path,
    tmp_path: Path,
    command: tuple[str, ...],
    options: list[str],
    variable: str,
) -> None:
    environment = os.environ | ({variable: ""} if variable else {"KERNELS_BACKENDS": "cpu"})
    arguments = [*command, "org/name@1", *options]
    done = subprocess.run(
        [sys.executable, "-m", "kernels_core", *arguments],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert all(option in done.stderr for option in ("--variant", "--all-variants", "--backend"))


def test_a_named_backend_needs_no_device(hub: Hub, project: Path, tmp_path: Path) -> None:
    """The plugin for CUDA is installed, as on a login node; no device is."""
    from kernels_core.plugins import registry

    if registry().backend("cuda").detection().available:
        pytest.skip("has a device")
    hub.add("org/triton", kernel_files("triton", variant="torch-cuda"), branch="v1")
    result = run("download", "org/triton@1", "--backend", "cuda", "--json")
    assert result.exit_code == 0, result.output
    assert downloaded(result.stdout) == [("org/triton", ["torch-cuda"])]
