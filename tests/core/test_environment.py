"""Environment variables: the usual spellings of yes and no, and paths below a home directory."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from kernels_core import (
    LocalLayerRepository,
    LockedLayerRepository,
    environment,
    get_kernel,
    get_kernel_variants,
    get_local_kernel,
    load_kernel,
)
from kernels_core.check import check
from kernels_core.errors import EnvironmentVariableError


@pytest.mark.parametrize("value", ["1", "true", "YES", " On ", "y"])
def test_yes(monkeypatch, value):
    monkeypatch.setenv("KERNELS_STRICT_PLUGINS", value)
    assert environment.flag("KERNELS_STRICT_PLUGINS") is True


@pytest.mark.parametrize("value", [None, "", "0", "False", "no", "OFF"])
def test_no(monkeypatch, value):
    monkeypatch.delenv("KERNELS_STRICT_PLUGINS", raising=False)
    if value is not None:
        monkeypatch.setenv("KERNELS_STRICT_PLUGINS", value)
    assert environment.flag("KERNELS_STRICT_PLUGINS") is False


def test_neither_names_the_variable(monkeypatch):
    monkeypatch.setenv("DISABLE_KERNEL_MAPPING", "maybe")
    with pytest.raises(ValueError, match="DISABLE_KERNEL_MAPPING='maybe' is neither yes nor no"):
        environment.flag("DISABLE_KERNEL_MAPPING")


@pytest.mark.parametrize(
    ("value", "names"),
    [(None, None), ("", set()), (" , ", set()), ("cpu", {"cpu"}), ("CPU, cuda,", {"cpu", "cuda"})],
)
def test_names(monkeypatch, value, names):
    monkeypatch.delenv("KERNELS_BACKENDS", raising=False)
    if value is not None:
        monkeypatch.setenv("KERNELS_BACKENDS", value)
    assert environment.names("KERNELS_BACKENDS") == names


@pytest.fixture
def homeless(installed_plugins, monkeypatch, tmp_path):
    """A user without a home directory, in a working directory that has one named `~`."""
    installed_plugins.install("acme")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "~" / "kernel" / "build" / "torch-universal").mkdir(parents=True)
    for variable in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(variable, "")


NO_HOME = {
    "repo_path": lambda: get_local_kernel("~/kernel"),
    "repo": lambda: get_kernel_variants(Path("~/kernel")),
    "lockfile": lambda: load_kernel("org/kernel", lockfile="~/kernels.lock"),
    "subject": lambda: check("~/kernel"),
}


@pytest.mark.parametrize("argument", NO_HOME)
def test_a_path_below_a_home_that_does_not_exist_names_the_argument(homeless, argument):
    with pytest.raises(EnvironmentVariableError, match=f"^{argument}='~/k") as raised:
        NO_HOME[argument]()
    assert raised.value.variable == environment.HOME


@pytest.mark.parametrize("user", ["~", "~nobody-of-that-name"])
def test_a_layer_repository_below_a_home_that_does_not_exist(homeless, user):
    with pytest.raises(EnvironmentVariableError, match=r"^repo_path="):
        LocalLayerRepository(f"{user}/kernel", layer_name="Layer")
    with pytest.raises(EnvironmentVariableError, match=r"^lockfile="):
        LockedLayerRepository("org/kernel", layer_name="Layer", lockfile=f"{user}/kernels.lock")


@pytest.mark.parametrize("path", ["~/kernel", "~nobody-of-that-name/kernel", "$NOT_SET/kernel"])
def test_a_local_kernel_below_a_home_that_does_not_exist(homeless, monkeypatch, path):
    monkeypatch.setenv("LOCAL_KERNELS", f"org/kernel={path}")
    with pytest.raises(EnvironmentVariableError, match=r"^LOCAL_KERNELS=") as raised:
        get_kernel("org/kernel")
    assert raised.value.variable == "LOCAL_KERNELS"


CACHE = "from kernels_core.hub.cache import cache_root\nprint(cache_root())"
# In the order in which they decide.
CACHE_VARIABLES = ("KERNELS_CACHE", "HF_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME")


def cache_in_a_process(folder, **variables) -> str:
    """The cache of a process that has these variables and no others about directories."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in (*CACHE_VARIABLES, "HUGGINGFACE_HUB_CACHE", "HOME", "USERPROFILE")
    }
    process = subprocess.run(
        [sys.executable, "-c", CACHE],
        env=kept | variables,
        cwd=folder,
        capture_output=True,
        text=True,
    )
    return process.stdout.strip() or process.stderr.splitlines()[-1]


@pytest.mark.parametrize("variable", CACHE_VARIABLES)
def test_a_cache_below_a_home_that_does_not_exist_names_the_variable(tmp_path, variable):
    said = cache_in_a_process(tmp_path, HOME="no", USERPROFILE="no", **{variable: "~/cache"})
    assert f"EnvironmentVariableError: {variable}='~/cache'" in said


@pytest.mark.parametrize(
    ("variables", "decides"),
    [
        ({"HOME": "relative", "USERPROFILE": "relative"}, f"{environment.HOME}='relative'"),
        ({"HF_HOME": "", "HOME": "/home", "USERPROFILE": "/home"}, "HF_HOME=''"),
        ({"HF_HOME": "$NOT_SET/hub", "HOME": "/home", "USERPROFILE": "/home"}, "HF_HOME='$NOT"),
    ],
)
def test_the_hub_clients_cache_is_never_in_the_working_directory_by_chance(
    tmp_path, variables, decides
):
    assert f"EnvironmentVariableError: {decides}" in cache_in_a_process(tmp_path, **variables)


def test_a_cache_in_the_working_directory_may_be_asked_for(tmp_path):
    assert cache_in_a_process(tmp_path, KERNELS_CACHE="here") == str(tmp_path / "here")
    assert cache_in_a_process(tmp_path, HF_HOME="here") == os.path.join("here", "hub")
