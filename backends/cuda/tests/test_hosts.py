"""The CUDA backend on recorded machines: what the probe returned there, and what follows.

`hosts.json` notes for every machine where it was recorded and what had to be assumed.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from kernels_backend_cuda import _probe, plugin
from kernels_core.device import CUDAProperties
from kernels_core.hookspecs import Detection

HOSTS = json.loads(Path(__file__).with_name("hosts.json").read_text("utf-8"))


@pytest.fixture(params=HOSTS, ids=[host["machine"] for host in HOSTS])
def recorded(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    host: dict[str, Any] = request.param
    runtime = host["runtime"]
    answer = _probe.Runtime(
        runtime["cuda"], tuple(runtime["driver"]), device_count=runtime["device_count"]
    )
    monkeypatch.setattr(_probe, "runtime", lambda: answer)

    def gpu(index: int) -> _probe.Gpu:
        names = ("name", "major", "minor", "total_memory")
        return _probe.Gpu(**{name: host["gpus"][index][name] for name in names})

    monkeypatch.setattr(_probe, "gpu", gpu)
    return host


def test_every_machine_says_where_it_comes_from() -> None:
    for host in HOSTS:
        assert host["sources"]
        assert host["recorded"]
        assert host["assumed"]
        assert len(host["gpus"]) == host["runtime"]["device_count"]


def test_detection(recorded: dict[str, Any], make_host: Any) -> None:
    assert plugin.kernels_detect(make_host(recorded["torch"])) == Detection(
        recorded["runtime"]["device_count"], runtime_version=recorded["runtime"]["cuda"]
    )


def test_facts_are_those_of_each_device(recorded: dict[str, Any]) -> None:
    for index, gpu in enumerate(recorded["gpus"]):
        facts = plugin.kernels_device_facts(index)
        assert facts.index == index
        assert facts.name == gpu["name"]
        assert facts.capability == (gpu["major"], gpu["minor"])
        assert facts.total_memory == gpu["total_memory"]


def test_tags(recorded: dict[str, Any], make_host: Any) -> None:
    detection = plugin.kernels_detect(make_host(recorded["torch"]))
    for text, fits in recorded["tags"].items():
        tag = plugin.kernels_parse_tag(text)
        assert tag is not None
        assert plugin.kernels_match_tag(tag, detection).fits == fits, text


def test_ranges_of_capabilities(recorded: dict[str, Any]) -> None:
    for index, gpu in enumerate(recorded["gpus"]):
        facts = plugin.kernels_device_facts(index)
        for bounds, fits in gpu["ranges"].items():
            required = CUDAProperties(*map(int, bounds.split("-")))
            assert plugin.kernels_match_device(required, facts).fits == fits, (gpu["name"], bounds)


def test_declared_architectures(recorded: dict[str, Any]) -> None:
    for index, gpu in enumerate(recorded["gpus"]):
        facts = plugin.kernels_device_facts(index)
        for arch, covered in gpu["archs"].items():
            assert plugin.kernels_match_archs([arch], facts).fits == covered, (gpu["name"], arch)
        assert plugin.kernels_match_archs(list(gpu["archs"]), facts).fits == any(
            gpu["archs"].values()
        )
