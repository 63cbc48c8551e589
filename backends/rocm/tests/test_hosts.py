"""The ROCm backend on recorded machines: what the probe returned there, and what follows.

`hosts.json` notes for every machine where it was recorded and what had to be assumed.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from kernels_backend_rocm import _probe, plugin
from kernels_core.device import Architectures, ROCMProperties
from kernels_core.hookspecs import Detection

HOSTS = json.loads(Path(__file__).with_name("hosts.json").read_text("utf-8"))


@pytest.fixture(params=HOSTS, ids=[host["machine"] for host in HOSTS])
def recorded(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    host: dict[str, Any] = request.param
    monkeypatch.setattr(_probe, "runtime", lambda: _probe.Runtime(**host["runtime"]))
    monkeypatch.setattr(_probe, "gpu", lambda index: _probe.Gpu(**host["gpus"][index]))
    return host


def test_every_machine_says_where_it_comes_from() -> None:
    for host in HOSTS:
        assert host["sources"]
        assert host["recorded"]
        assert host["assumed"]
        assert len(host["gpus"]) == host["runtime"]["device_count"]


def test_detection(recorded: dict[str, Any], make_host: Any) -> None:
    assert plugin.kernels_detect(make_host(recorded["torch"])) == Detection(
        recorded["runtime"]["device_count"], runtime_version=recorded["expected_version"]
    )


def test_facts(recorded: dict[str, Any]) -> None:
    for index, gpu in enumerate(recorded["gpus"]):
        facts = plugin.kernels_device_facts(index)
        assert (facts.index, facts.name) == (index, gpu["name"])
        assert facts.gcn_arch_name == gpu["gcn_arch_name"]
        assert facts.architecture == gpu["gcn_arch_name"].split(":")[0]
        assert facts.capability == (gpu["major"], gpu["minor"])


def test_tags(recorded: dict[str, Any], make_host: Any) -> None:
    detection = plugin.kernels_detect(make_host(recorded["torch"]))
    for text, fits in recorded["tags"].items():
        tag = plugin.kernels_parse_tag(text)
        assert tag is not None, text
        assert plugin.kernels_match_tag(tag, detection).fits == fits, text


def test_architectures_the_more_specific_the_better(recorded: dict[str, Any]) -> None:
    facts = plugin.kernels_device_facts(0)
    matches = [
        plugin.kernels_match_device(Architectures(name), facts) for name in recorded["names"]
    ]
    assert all(match.fits for match in matches)
    assert matches == sorted(matches, key=lambda match: match.rank, reverse=True)
    assert len({match.rank for match in matches}) == len(matches)
    for name in recorded["not_names"]:
        assert not plugin.kernels_match_device(Architectures(name), facts).fits, name


def test_declared_architectures(recorded: dict[str, Any]) -> None:
    facts = plugin.kernels_device_facts(0)
    for name in recorded["names"]:
        assert plugin.kernels_match_archs([*recorded["not_names"], name], facts).fits, name
    match = plugin.kernels_match_archs(recorded["not_names"], facts)
    assert match.reason.endswith(f"and the device is {facts.gcn_arch_name}")


def test_ranges_of_capabilities(recorded: dict[str, Any]) -> None:
    facts = plugin.kernels_device_facts(0)
    for bounds, fits in recorded["ranges"].items():
        required = ROCMProperties(*map(int, bounds.split("-")))
        assert plugin.kernels_match_device(required, facts).fits == fits, bounds


def test_the_loosest_name_is_better_than_the_tightest_range(recorded: dict[str, Any]) -> None:
    facts = plugin.kernels_device_facts(0)
    name = plugin.kernels_match_device(
        Architectures([recorded["names"][-1], *recorded["not_names"]]), facts
    )
    major, minor = facts.capability
    exact = 10 * major + minor
    assert name > plugin.kernels_match_device(ROCMProperties(exact, exact), facts)
