"""What was locked and downloaded, or bundled, is found offline by every name of it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hub_server import Hub, kernel_files

REQUIRED = """
[tool.kernels.dependencies]
"org/major" = 1
"org/range" = ">=0.1,<0.3"
"org/tag" = { revision = "v1.2.3" }
"org/branch" = { revision = "feature" }
"""

# Unchanged, online and offline.
PROGRAM = """
import json
from pathlib import Path
from kernels_core import get_kernel, get_locked_kernel
kernels = {
    "version": get_kernel("org/major", version=1, backend="cpu"),
    "range": get_kernel("org/range", version=">=0.1,<0.3", backend="cpu"),
    "tag": get_kernel("org/tag", revision="v1.2.3", backend="cpu"),
    "branch": get_kernel("org/branch", revision="feature", backend="cpu"),
    "lock": get_locked_kernel("org/major", lockfile=Path("kernels.lock"), backend="cpu"),
}
print(json.dumps({name: kernel.answer for name, kernel in kernels.items()}))
"""
FIRST = {"version": 1, "range": 1, "tag": 1, "branch": 1, "lock": 1}

HOWS = ["HF_HUB_OFFLINE", "server down"]


def publish(hub: Hub, answer: int) -> None:
    source = f"answer = {answer}"
    hub.add("org/major", kernel_files("major", source=source), branch="v1")
    tag = f"v0.{answer}.0"
    hub.add("org/range", kernel_files("range", source=source), tag=tag)
    if answer == 1:
        hub.add("org/tag", kernel_files("tag", source=source), tag="v1.2.3")
    hub.add("org/branch", kernel_files("branch", source=source), branch="feature")


def run(project: Path, *command: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, *command],
        env=os.environ | environment,
        cwd=project,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


def command(project: Path, *arguments: str, **environment: str) -> Any:
    return json.loads(run(project, "-m", "kernels_core", *arguments, "--json", **environment))


@pytest.fixture
def project(hub: Hub, tmp_path: Path) -> Path:
    """A locked project, whose kernels have newer commits now."""
    publish(hub, 1)
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "pyproject.toml").write_text(REQUIRED)
    command(folder, "lock")
    publish(hub, 2)
    return folder


def answers_offline(hub: Hub, project: Path, how: str, **environment: str) -> Any:
    if how == "server down":
        hub.stop()
        return json.loads(run(project, "-c", PROGRAM, **environment))
    hub.forget()
    answers = json.loads(run(project, "-c", PROGRAM, HF_HUB_OFFLINE="1", **environment))
    assert not hub.requests
    return answers


@pytest.mark.parametrize("how", HOWS)
def test_after_a_download_to_a_new_cache(hub: Hub, project: Path, tmp_path: Path, how: str) -> None:
    home = str(tmp_path / "elsewhere")
    command(project, "download", "--backend", "cpu", HF_HOME=home)
    assert answers_offline(hub, project, how, HF_HOME=home) == FIRST


@pytest.mark.parametrize("how", HOWS)
def test_after_unpacking_a_bundle(hub: Hub, project: Path, tmp_path: Path, how: str) -> None:
    # A cache that knows the newer commits, too.
    newer = "from kernels_core import get_kernel\nget_kernel('org/range', version='>0')"
    run(project, "-c", newer, KERNELS_BACKEND="cpu")
    bundle, unpacked = str(tmp_path / "kernels.tar"), str(tmp_path / "unpacked")
    command(project, "bundle", bundle, "--project", ".", "--backend", "cpu")
    command(project, "unbundle", bundle, unpacked)
    shutil.rmtree(tmp_path / "hf-home")
    assert answers_offline(hub, project, how, KERNELS_CACHE=unpacked) == FIRST


def test_a_range_takes_what_is_in_the_cache_where_no_request_may_be_sent(
    hub: Hub, project: Path
) -> None:
    command(project, "download", "--backend", "cpu")
    # Another program has heard of the newer tag, without downloading it.
    run(project, "-c", "from kernels_core import has_kernel; has_kernel('org/range', version='>0')")
    assert answers_offline(hub, project, "HF_HUB_OFFLINE") == FIRST


@pytest.mark.parametrize("by", ["download", "get_locked_kernel", "commit"])
def test_the_cache_tools_of_the_client_keep_what_is_locked(
    hub: Hub, project: Path, by: str, fresh_python: Callable[..., Any]
) -> None:
    lock = json.loads((project / "kernels.lock").read_text())
    commits = {entry["dependency"]["repo-id"]: entry["lock"]["commit"] for entry in lock}
    if by == "download":
        command(project, "download", "--backend", "cpu")
    elif by == "commit":
        commits = {"org/major": commits["org/major"]}
        program = f"get_kernel('org/major', revision={commits['org/major']!r}, backend='cpu')"
        run(project, "-c", f"from kernels_core import get_kernel; {program}")
    else:
        commits = {"org/major": commits["org/major"]}
        program = "get_locked_kernel('org/major', lockfile='kernels.lock', backend='cpu')"
        run(project, "-c", f"from kernels_core import get_locked_kernel; {program}")
    detached = """
import json
from huggingface_hub import scan_cache_dir
print(json.dumps([[repo.repo_id, revision.commit_hash, bool(revision.refs)]
    for repo in scan_cache_dir().repos for revision in repo.revisions]))
"""
    found = {(name, commit): named for name, commit, named in fresh_python(detached)}
    assert all(found[name, commit] for name, commit in commits.items()), found


def test_nothing_has_to_be_installed_to_download(
    hub: Hub, tmp_path: Path, fresh_python: Callable[..., Any]
) -> None:
    files = kernel_files("name", python_depends=["no-such-package"])
    hub.add("org/name", files, branch="v1")
    program = """
import json
from kernels_core import errors, get_kernel, install_kernel
path = install_kernel("org/name", version=1, backend="cpu")
try:
    get_kernel("org/name", version=1, backend="cpu")
except errors.DependencyError as error:
    print(json.dumps([str(path), str(error)]))
"""
    path, error = fresh_python(program)
    assert Path(path, "__init__.py").is_file()
    assert "pip install no-such-package" in error
    bundle = tmp_path / "kernels.zip"
    report = command(tmp_path, "bundle", str(bundle), "org/name@1", "--backend", "cpu")
    assert report["failures"] == []
    assert bundle.is_file()
