"""The commands of docs/offline.md, as they are written there and in that order."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from hub_server import Hub, kernel_files

pytestmark = pytest.mark.skipif(os.name == "nt", reason="runs commands of a POSIX shell")

PAGE = (Path(__file__).parents[2] / "docs" / "offline.md").read_text(encoding="utf-8")
PROJECT = re.search(r"```toml\n(\[tool\.kernels\.dependencies\]\n.*?)```", PAGE, re.DOTALL)
TABLE = re.search(r"    \$ kernels-core lock\n(.*?)\n\n", PAGE, re.DOTALL)
COMMANDS = re.findall(r"^ +\$ (.*)$", PAGE, re.MULTILINE)

CUDA = "torch213-cxx11-cu130-x86_64-linux"

# What `python train.py` means on the page. It is never changed.
TRAIN = """
import json, os
from pathlib import Path
from kernels_core import get_kernel, get_locked_kernel, load_kernel
os.environ["KERNELS_BACKEND"] = "cpu"
lock = json.loads(Path("kernels.lock").read_text())
commits = {one["dependency"]["repo-id"]: one["lock"]["commit"] for one in lock}
kernels = {
    "version": get_kernel("org/activation", version=1),
    "range": get_kernel("org/rotary", version=">=0.0.3,<0.1"),
    "tag": get_kernel("org/rotary", revision="v0.0.10"),
    "branch": get_kernel("org/attention", revision="main"),
    "commit": get_kernel("org/norms", revision=commits["org/norms"]),
    "locked": get_locked_kernel("org/norms", lockfile=Path("kernels.lock")),
    "loaded": load_kernel("org/activation", lockfile=Path("kernels.lock")),
}
print(json.dumps({name: kernel.answer for name, kernel in kernels.items()}))
"""
ANSWERS = {
    "version": "activation",
    "range": "rotary",
    "tag": "rotary",
    "branch": "attention",
    "commit": "norms",
    "locked": "norms",
    "loaded": "activation",
}


@pytest.fixture
def project(hub: Hub, tmp_path: Path) -> Path:
    """The project of the page; the kernels that it requires are on the Hub."""
    base = [{"repo-id": "org/base", "version": 1}]
    publish(hub, "base", branch="v1")
    publish(hub, "activation", branch="v1", kernel_depends=base)
    publish(hub, "rotary", tag="v0.0.9", branch=None)
    publish(hub, "rotary", tag="v0.0.10", branch=None)
    publish(hub, "norms", branch="v2")
    publish(hub, "attention", branch="main")
    folder = tmp_path / "project"
    folder.mkdir()
    assert PROJECT is not None
    (folder / "pyproject.toml").write_text(PROJECT[1])
    (folder / "train.py").write_text(TRAIN)
    return folder


def publish(hub: Hub, name: str, *, kernel_depends: object = None, **refs: str | None) -> None:
    files: dict[str, bytes | str] = {}
    for variant in ("torch-cpu", CUDA):
        kind = "cuda" if variant == CUDA else "cpu"
        files |= kernel_files(
            name,
            variant=variant,
            source=f"answer = {name!r}",
            backend={"type": kind},
            kernel_depends=kernel_depends,
        )
    hub.add(f"org/{name}", files, **refs)


def shell(project: Path, commands: list[str], **environment: str) -> str:
    """Run commands in one shell, until one of them fails."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        ["sh", "-ec", "\n".join(commands)],
        cwd=project,
        env=os.environ | {"PATH": path} | environment,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def columns(table: str) -> list[tuple[str, ...]]:
    """The columns of a table that do not depend on commits and numbers of builds."""
    lines = [line.rstrip() for line in table.splitlines()]
    head = lines[0]
    starts = [head.index(name) for name in ("KERNEL", "REQUIRED", "COMMIT", "NEEDED BY", "CHANGE")]
    kernel, required, commit, needed, change = starts
    return [
        (line[kernel:required].strip(), line[required:commit].strip(), line[needed:change].strip())
        for line in lines
        if "/" in line.split("  ")[0]
    ]


def test_every_command_runs_and_the_program_is_unchanged(
    hub: Hub, project: Path, tmp_path: Path
) -> None:
    assert TABLE is not None
    data = tmp_path / "data"
    data.mkdir()
    at = COMMANDS.index(next(one for one in COMMANDS if "--digest" in one))
    on_this_machine = [one.replace("/data/", f"{data}/") for one in COMMANDS[:at]]
    on_the_other = [one.replace("/data/", f"{data}/") for one in COMMANDS[at:]]

    said = shell(project, [*on_this_machine, "kernels-core unbundle kernels.tar.gz x --json"])
    shown = "\n".join(line[4:] for line in TABLE[1].splitlines())
    assert columns(shown)
    assert columns(said.partition(" written.")[0]) == columns(shown)

    digest = json.loads(said[said.rindex("\n{\n") :])["digest"]
    on_the_other = [one.replace("sha256:3b1f...", shlex.quote(digest)) for one in on_the_other]
    shutil.rmtree(tmp_path / "hf-home")
    hub.stop()
    said = shell(project, on_the_other)
    assert answers(said) == ANSWERS


@pytest.mark.parametrize("offline", [{"HF_HUB_OFFLINE": "1"}, {}], ids=["set", "Hub down"])
def test_after_lock_and_download_the_program_is_unchanged(
    hub: Hub, project: Path, tmp_path: Path, offline: Mapping[str, str]
) -> None:
    shell(project, ["kernels-core lock"])
    cache = str(tmp_path / "elsewhere")
    shell(project, ["kernels-core download"], KERNELS_CACHE=cache)
    hub.stop()
    assert answers(shell(project, ["python train.py"], KERNELS_CACHE=cache, **offline)) == ANSWERS


def answers(said: str) -> object:
    return json.loads(next(line for line in said.splitlines() if line.startswith('{"version"')))
