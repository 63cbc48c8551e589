"""The CPU backend on recorded machines.

What the operating system listed there is given to archspec as if it had read it itself, so that the
probe really runs. `hosts.json` notes for every machine where it was recorded.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from archspec.cpu import detect

from kernels_backend_cpu import _probe, plugin
from kernels_core.device import Features
from kernels_core.hookspecs import BackendTag, Detection

HOSTS = json.loads(Path(__file__).with_name("hosts.json").read_text("utf-8"))


@pytest.fixture(params=HOSTS, ids=[host["machine"] for host in HOSTS])
def recorded(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[dict[str, Any]]:
    host: dict[str, Any] = request.param
    listed = detect.partial_uarch(
        name=host.get("name", ""),
        vendor=host["vendor"],
        features=set(host["flags"].split()),
        cpu_part=host["cpu_part"],
    )
    monkeypatch.setattr(detect, "detected_info", lambda: listed)
    monkeypatch.setattr(detect, "_machine", lambda: host["architecture"])
    monkeypatch.setattr(detect.platform, "system", lambda: host["system"])
    monkeypatch.setattr(_probe, "_torch_capabilities", lambda: host["torch"])
    detect.host.cache_clear()
    yield host
    detect.host.cache_clear()


def test_every_machine_says_where_it_comes_from() -> None:
    assert all(host["sources"] and host["recorded"] and host["assumed"] for host in HOSTS)


def test_detection_and_tag(recorded: dict[str, Any], make_host: Any) -> None:
    detection = plugin.kernels_detect(make_host("2.13.0", cpu=recorded["architecture"]))
    assert detection == Detection(1)
    assert plugin.kernels_match_tag(BackendTag("cpu", "cpu"), detection).fits


def test_facts(recorded: dict[str, Any]) -> None:
    facts = plugin.kernels_device_facts(0)
    assert facts.index == 0
    assert facts.name == recorded["torch"].get("cpu_name", recorded["microarchitecture"])
    assert facts.microarchitecture == recorded["microarchitecture"]
    assert facts.features.issuperset(recorded["has"])
    assert facts.features.isdisjoint(recorded["lacks"])


def test_required_features(recorded: dict[str, Any]) -> None:
    facts = plugin.kernels_device_facts(0)
    has, lacks = recorded["has"], recorded["lacks"]
    everything = plugin.kernels_match_device(Features(has), facts)
    one = plugin.kernels_match_device(Features(has[:1]), facts)
    assert everything.fits
    assert everything > one
    for missing in lacks:
        match = plugin.kernels_match_device(Features([*has, missing]), facts)
        assert match.reason == f"it lacks {missing}"
