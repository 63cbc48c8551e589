"""The XPU backend on recorded machines: what the probe returned there, and what follows.

`hosts.json` notes for every machine where it was recorded and what had to be assumed.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from kernels_backend_xpu import _probe, plugin
from kernels_core.device import Architectures
from kernels_core.hookspecs import Detection

HOSTS = json.loads(Path(__file__).with_name("hosts.json").read_text("utf-8"))


@pytest.fixture(params=HOSTS, ids=[host["machine"] for host in HOSTS])
def recorded(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    host: dict[str, Any] = request.param
    monkeypatch.setattr(_probe, "runtime", lambda: _probe.Runtime(**host["runtime"]))
    monkeypatch.setattr(_probe, "gpu", lambda index: _probe.Gpu(**host["gpu"]))
    return host


def test_every_machine_says_where_it_comes_from() -> None:
    for host in HOSTS:
        assert host["sources"]
        assert host["recorded"]
        assert host["assumed"]


def test_detection(recorded: dict[str, Any], make_host: Any) -> None:
    assert plugin.kernels_detect(make_host(recorded["torch"])) == Detection(
        recorded["runtime"]["device_count"], runtime_version=recorded["expected_version"]
    )


def test_facts(recorded: dict[str, Any]) -> None:
    last = recorded["runtime"]["device_count"] - 1
    facts = plugin.kernels_device_facts(last)
    assert (facts.index, facts.name) == (last, recorded["gpu"]["name"])
    assert facts.device_id == recorded["gpu"]["device_id"]
    assert facts.architectures == tuple(recorded["names"])


def test_tags(recorded: dict[str, Any], make_host: Any) -> None:
    detection = plugin.kernels_detect(make_host(recorded["torch"]))
    for text, fits in recorded["tags"].items():
        tag = plugin.kernels_parse_tag(text)
        assert tag is not None, text
        assert plugin.kernels_match_tag(tag, detection).fits == fits, text


def test_names_the_more_specific_the_better(recorded: dict[str, Any]) -> None:
    facts = plugin.kernels_device_facts(0)
    matches = [
        plugin.kernels_match_device(Architectures(name), facts) for name in recorded["names"]
    ]
    assert all(match.fits for match in matches)
    assert matches == sorted(matches, key=lambda match: match.rank, reverse=True)
    for name in recorded["not_names"]:
        assert not plugin.kernels_match_device(Architectures(name), facts).fits, name
