"""The MPS backend on recorded machines: what the probe returned there, and what follows.

`hosts.json` notes for every machine where it was recorded and what had to be assumed.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from kernels_backend_mps import _probe, plugin
from kernels_core.device import MinimumVersions
from kernels_core.hookspecs import BackendTag, Detection

HOSTS = json.loads(Path(__file__).with_name("hosts.json").read_text("utf-8"))


@pytest.fixture(params=HOSTS, ids=[host["machine"] for host in HOSTS])
def recorded(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    host: dict[str, Any] = request.param
    monkeypatch.setattr(_probe, "support", lambda: _probe.Support(**host["support"]))
    monkeypatch.setattr(_probe, "mac", lambda: _probe.Mac(**host["mac"]))
    return host


def detect(recorded: dict[str, Any], make_host: Any) -> Detection:
    return plugin.kernels_detect(make_host(recorded["torch"], os="darwin", cpu="aarch64"))


def test_every_machine_says_where_it_comes_from() -> None:
    assert all(host["sources"] and host["recorded"] and host["assumed"] for host in HOSTS)


def test_detection(recorded: dict[str, Any], make_host: Any) -> None:
    detection = detect(recorded, make_host)
    assert detection.device_count == int(recorded["support"]["available"])
    assert detection.runtime_version == recorded["mac"]["macos"]
    if not detection.available:
        assert detection.reason.startswith(
            f"macOS {recorded['mac']['macos']} is present, 0 devices: torch {recorded['torch']} "
        )


def test_facts(recorded: dict[str, Any]) -> None:
    facts = plugin.kernels_device_facts(0)
    assert (facts.index, facts.name) == (0, recorded["mac"]["processor"])
    assert facts.chip == recorded["chip"]
    assert facts.macos == recorded["mac"]["macos"]
    assert facts.metal == recorded["metal"]


def test_metal_builds_need_macos_26(recorded: dict[str, Any], make_host: Any) -> None:
    match = plugin.kernels_match_tag(BackendTag("mps", "metal"), detect(recorded, make_host))
    assert match.fits == recorded["metal_builds"]
    if not match.fits:
        macos = recorded["mac"]["macos"]
        assert match.reason == f"metal builds need macOS 26.0 or newer, and this is {macos}"


def test_minimum_versions(recorded: dict[str, Any]) -> None:
    facts = plugin.kernels_device_facts(0)
    macos, metal = recorded["mac"]["macos"], recorded["metal"]
    both = plugin.kernels_match_device(MinimumVersions({"macos": macos, "metal": metal}), facts)
    older = plugin.kernels_match_device(MinimumVersions({"macos": "12.0"}), facts)
    assert both.fits
    assert older.fits
    assert both > older
    for name, newer in {"macos": "99.0", "metal": "9.9"}.items():
        match = plugin.kernels_match_device(MinimumVersions({name: newer}), facts)
        assert match.reason == (
            f"it has {name} {getattr(facts, name)}, and at least {newer} is required"
        )
