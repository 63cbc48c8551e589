"""What holds for every backend plugin of this repository, on this very machine."""

import importlib
import os
import subprocess
import sys
from importlib.metadata import entry_points
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernels_core.hookspecs import Detection
from kernels_core.host import host_info
from kernels_core.plugins import Backend, registry, reset

NAMES = ["cpu", "cuda", "mps", "rocm", "xpu"]
PLUGINS = {name: importlib.import_module(f"kernels_backend_{name}.plugin") for name in NAMES}
TAGS = {"cpu": "cpu", "cuda": "cu128", "mps": "metal", "rocm": "rocm71", "xpu": "xpu20252"}


@pytest.fixture(params=NAMES)
def plugin(request: pytest.FixtureRequest) -> ModuleType:
    return PLUGINS[request.param]


@pytest.fixture
def backends() -> dict[str, Backend]:
    reset()
    return dict(registry().backends)


def run(code: str) -> str:
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_all_are_found_through_their_entry_points(backends: dict[str, Backend]) -> None:
    assert not registry().failures
    assert set(NAMES) <= set(backends)
    found = {point.name: point.value for point in entry_points(group="kernels_core.backends")}
    for name in NAMES:
        assert found[name] == f"kernels_backend_{name}.plugin"
        assert backends[name].distribution.startswith(f"kernels-backend-{name} ")


def test_declaration_matches_the_name_and_only_the_cpu_gives_way(
    backends: dict[str, Backend],
) -> None:
    assert all(backends[name].info.name == name for name in NAMES)
    priorities = {name: backends[name].info.priority for name in NAMES}
    assert priorities.pop("cpu") == 0
    assert set(priorities.values()) == {100}
    kinds = {name: backends[name].info.torch_device_type for name in NAMES}
    assert kinds == {"cpu": "cpu", "cuda": "cuda", "mps": "mps", "rocm": "cuda", "xpu": "xpu"}
    noarch = {name: backends[name].info.noarch_name for name in NAMES}
    assert noarch == {"cpu": "cpu", "cuda": "cuda", "mps": "metal", "rocm": "rocm", "xpu": "xpu"}


@pytest.mark.parametrize("name", NAMES)
def test_importing_and_declaring_imports_no_torch(name: str) -> None:
    assert (
        run(
            f"import sys; from kernels_backend_{name} import plugin\n"
            "plugin.kernels_backend(); plugin.kernels_parse_tag('cu128')\n"
            "print('torch' in sys.modules)"
        )
        == "False"
    )


def test_without_torch_there_is_no_accelerator(make_host: Any) -> None:
    for name, plugin in PLUGINS.items():
        detection = plugin.kernels_detect(make_host(None))
        assert detection.available == (name == "cpu")
    mac = make_host(None, os="darwin", cpu="aarch64")
    assert PLUGINS["mps"].kernels_detect(mac).reason == "torch is not installed"


def test_detection_tells_the_truth_about_this_machine() -> None:
    import torch

    host = host_info()
    detected = {name: plugin.kernels_detect(host) for name, plugin in PLUGINS.items()}
    assert detected["cpu"] == Detection(1)
    cuda = torch.version.cuda is not None and torch.cuda.is_available()
    rocm = torch.version.hip is not None and torch.cuda.is_available()
    assert detected["cuda"].available == cuda
    assert detected["rocm"].available == rocm
    assert detected["xpu"].available == torch.xpu.is_available()
    assert detected["mps"].available == (host.os == "darwin" and torch.backends.mps.is_available())
    for name, built in {
        "cuda": torch.version.cuda,
        "rocm": torch.version.hip,
        "xpu": torch.version.xpu,
    }.items():
        if built is None:
            assert detected[name].runtime_version is None
            assert str(torch.__version__) in detected[name].reason
            assert "built without" in detected[name].reason
    if host.os != "darwin":
        assert f"{host.os} {host.cpu}" in detected["mps"].reason


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_detection_initialises_no_device_and_leaves_fork_alone() -> None:
    # In a fresh process, because other tests of this one may use a device.
    assert (
        run(
            "import os, torch\n"
            "from kernels_core.plugins import registry\n"
            "found = [backend.detection() for backend in registry().backends.values()]\n"
            "assert found\n"
            "assert not torch.cuda.is_initialized() and not torch.xpu.is_initialized()\n"
            "child = os.fork()\n"
            "if child == 0:\n"
            "    bad = torch.cuda._is_in_bad_fork() or torch.xpu._is_in_bad_fork()\n"
            "    os._exit(1 if bad else 0)\n"
            "print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))"
        )
        == "0"
    )


def test_tags_belong_to_one_backend_each(backends: dict[str, Backend]) -> None:
    for owner, text in TAGS.items():
        parsed = {name: plugin.kernels_parse_tag(text) for name, plugin in PLUGINS.items()}
        assert [name for name, tag in parsed.items() if tag is not None] == [owner]
        tag = backends[owner].parse_tag(text)
        assert tag is not None
        assert (tag.backend, str(tag)) == (owner, text)


@given(text=st.text() | st.from_regex(r"(cpu|cu|metal|rocm|xpu)[\d.\s]{0,8}", fullmatch=True))
def test_any_text_is_a_tag_that_writes_it_or_none(text: str) -> None:
    for name, plugin in PLUGINS.items():
        tag = plugin.kernels_parse_tag(text)
        assert tag is None or (tag.backend == name and str(tag) == text)


@pytest.mark.parametrize("text", ["", " cpu", "cpu\n", "CPU", "cpux", "Metal", "metal4", "mps"])
def test_fixed_tags_are_exact(text: str) -> None:
    assert all(plugin.kernels_parse_tag(text) is None for plugin in PLUGINS.values())


def test_where_there_is_no_runtime_no_versioned_build_fits() -> None:
    nothing = Detection(0, reason="nothing here")
    for name in ("cuda", "mps", "rocm", "xpu"):
        match = PLUGINS[name].kernels_match_tag(
            PLUGINS[name].kernels_parse_tag(TAGS[name]), nothing
        )
        assert not match.fits
        assert match.reason
