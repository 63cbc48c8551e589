"""A cache that Hugging Face `kernels`, or the Hub's client, has filled."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from hub_server import Hub, kernel_files
from hub_server.fixtures import reread

from kernels_core import (
    errors,
    get_kernel,
    get_kernel_variants,
    has_kernel,
    install_kernel,
    load_kernel,
)
from kernels_core.cli.main import main

pytest.importorskip("kernels")

REPOSITORY = "org/activation"
WITH_KERNELS = "import kernels; kernels.{call}"
BY_CLIENT = f"""
from huggingface_hub import snapshot_download
snapshot_download({REPOSITORY!r}, repo_type="kernel", revision="v1", allow_patterns="build/*-cpu/*")
"""

GoOffline = Callable[[], None]


def run(program: str) -> None:
    # Without telemetry, the other package sends a user agent that the client refuses.
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "HF_HUB_DISABLE_TELEMETRY": "0"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr


def filled_by(hub: Hub, program: str, **files: object) -> str:
    also = {"data.bin": b"\x00" * 64}
    commit = hub.add(REPOSITORY, kernel_files(also=also, **files), branch="v1", lfs=["*.bin"])
    run(program)
    return commit


BY_REVISION = WITH_KERNELS.format(call=f"get_kernel({REPOSITORY!r}, revision='v1', backend='cpu')")
BY_VERSION = WITH_KERNELS.format(call=f"get_kernel({REPOSITORY!r}, version=1, backend='cpu')")


@pytest.fixture
def go_offline(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> GoOffline:
    def go() -> None:
        hub.stop()
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        reread()

    return go


@pytest.mark.parametrize("program", [BY_REVISION, BY_CLIENT], ids=["kernels", "client"])
def test_what_it_holds_loads_offline(hub: Hub, go_offline: GoOffline, program: str) -> None:
    commit = filled_by(hub, program, digest=True)
    go_offline()
    for arguments in ({"version": 1}, {"revision": "v1"}, {"revision": commit}):
        kernel = get_kernel(REPOSITORY, trust_remote_code=True, **arguments)
        assert kernel.answer == 42
        assert has_kernel(REPOSITORY, **arguments)
        assert [d.accepted for d in get_kernel_variants(REPOSITORY, **arguments)] == [True]
    path = install_kernel(REPOSITORY, version=1, trust_remote_code=True)
    assert path.parts[-3:] == (commit, "build", "torch-cpu")
    assert {file.name for file in path.iterdir()} >= {"data.bin", "metadata.json"}


def test_a_version_that_was_resolved_by_the_other_package_left_no_branch(
    hub: Hub, go_offline: GoOffline
) -> None:
    commit = filled_by(hub, BY_VERSION)
    go_offline()
    assert get_kernel(REPOSITORY, revision=commit, trust_remote_code=True).answer == 42
    with pytest.raises(errors.HubOfflineError, match="no record of its branches and tags"):
        get_kernel(REPOSITORY, version=1, trust_remote_code=True)


def test_trust_is_not_in_the_cache(
    hub: Hub, go_offline: GoOffline, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = filled_by(hub, BY_CLIENT)
    go_offline()
    with pytest.raises(errors.TrustUnknownError):
        get_kernel(REPOSITORY, version=1)
    monkeypatch.setenv("KERNELS_TRUST", commit)
    assert get_kernel(REPOSITORY, version=1).answer == 42


def test_what_the_hub_said_of_the_publisher_before_counts(hub: Hub, go_offline: GoOffline) -> None:
    hub.add(REPOSITORY, kernel_files(source="answer = 1"), branch="v0")
    get_kernel(REPOSITORY, version=0)
    commit = filled_by(hub, BY_CLIENT)
    go_offline()
    assert get_kernel(REPOSITORY, revision=commit).answer == 42


@pytest.mark.parametrize("file", ["layers.py", "data.bin"])
def test_files_that_are_not_what_was_downloaded_are_refused(
    hub: Hub, go_offline: GoOffline, file: str
) -> None:
    commit = filled_by(hub, BY_CLIENT)
    go_offline()
    build = Path(os.environ["HF_HOME"], "hub", "kernels--org--activation")
    target = (build / "snapshots" / commit / "build" / "torch-cpu" / file).resolve()
    content = target.read_bytes()
    target.write_bytes(b"#" + content[1:])
    with pytest.raises(errors.LoadError):
        get_kernel(REPOSITORY, version=1, trust_remote_code=True)


def test_the_digests_of_a_lock_hold_for_its_files(
    hub: Hub, go_offline: GoOffline, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    filled_by(hub, BY_CLIENT)
    lock = tmp_path / "kernels.lock"
    lock.with_name("pyproject.toml").write_text(f"[tool.kernels.dependencies]\n'{REPOSITORY}' = 1")
    monkeypatch.setenv("KERNELS_CACHE", str(tmp_path / "another"))
    assert CliRunner().invoke(main, ["lock", str(tmp_path)]).exit_code == 0
    monkeypatch.delenv("KERNELS_CACHE")
    go_offline()
    with pytest.raises(errors.TrustUnknownError):
        load_kernel(REPOSITORY, lock)
    assert load_kernel(REPOSITORY, lock, trust_remote_code=True).answer == 42
    digests = lock.with_name("kernels.lock.digests.json")
    changed = re.sub(r"sha256-[0-9a-f]{4}", "sha256-0000", digests.read_text())
    digests.write_text(changed)
    with pytest.raises(errors.DigestError, match="the lock expects sha256-0000"):
        load_kernel(REPOSITORY, lock, trust_remote_code=True)


def test_files_without_links_are_served_too(hub: Hub, go_offline: GoOffline) -> None:
    commit = filled_by(hub, BY_CLIENT, digest=True)
    go_offline()
    cache = Path(os.environ["HF_HOME"], "hub", "kernels--org--activation")
    copied = cache.with_name("copied")
    shutil.copytree(cache / "snapshots" / commit, copied)
    shutil.rmtree(cache / "blobs")
    shutil.rmtree(cache / "snapshots" / commit)
    copied.rename(cache / "snapshots" / commit)
    assert get_kernel(REPOSITORY, version=1, trust_remote_code=True).answer == 42


def test_a_build_of_which_only_the_metadata_was_downloaded_is_not_there(
    hub: Hub, go_offline: GoOffline
) -> None:
    filled_by(hub, BY_CLIENT.replace("-cpu/*", "-cpu/metadata.json"))
    go_offline()
    with pytest.raises(errors.HubOfflineError, match="no record of the list of files"):
        get_kernel(REPOSITORY, version=1, trust_remote_code=True)


def test_what_was_downloaded_only_is_not_taken_for_all_once_there_is_a_hub(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = kernel_files(variant="torch-universal")
    hub.add(REPOSITORY, kernel_files() | other, branch="v1")
    run(BY_CLIENT)
    path = install_kernel(REPOSITORY, version=1, local_files_only=True, trust_remote_code=True)
    assert path.name == "torch-cpu"
    assert len(get_kernel_variants(REPOSITORY, version=1)) == 2


def test_offline_with_an_empty_cache_nothing_is_known(hub: Hub, go_offline: GoOffline) -> None:
    go_offline()
    for arguments in ({"version": 1}, {"revision": "0" * 40}):
        with pytest.raises(errors.HubOfflineError):
            get_kernel(REPOSITORY, trust_remote_code=True, **arguments)


@pytest.mark.parametrize("arguments", ["revision='v1'", "version=1"])
def test_what_this_package_downloaded_loads_offline_with_the_other(
    hub: Hub, go_offline: GoOffline, arguments: str
) -> None:
    hub.add(REPOSITORY, kernel_files(), branch="v1")
    assert get_kernel(REPOSITORY, version=1).answer == 42
    go_offline()
    run(WITH_KERNELS.format(call=f"get_kernel({REPOSITORY!r}, {arguments}, backend='cpu')"))
