"""The backend plugins of this repository together, on this machine.

The contract that each of them has to keep is tested in its `test_conformance.py`.
"""

from importlib.metadata import entry_points

import pytest

from kernels_core.errors import BackendUnavailableError
from kernels_core.hookspecs import Detection
from kernels_core.plugins import Backend, registry, reset

NAMES = ["cpu", "cuda", "mps", "rocm", "xpu"]
TAGS = {"cpu": "cpu", "cuda": "cu128", "mps": "metal", "rocm": "rocm71", "xpu": "xpu20252"}


@pytest.fixture
def backends() -> dict[str, Backend]:
    reset()
    return dict(registry().backends)


def test_all_are_found_through_their_entry_points(backends: dict[str, Backend]) -> None:
    assert not registry().failures
    assert set(NAMES) <= set(backends)
    found = {point.name: point.value for point in entry_points(group="kernels_core.backends")}
    for name in NAMES:
        assert found[name] == f"kernels_backend_{name}.plugin"
        assert backends[name].distribution.startswith(f"kernels-backend-{name} ")


def test_only_the_cpu_gives_way(backends: dict[str, Backend]) -> None:
    priorities = {name: backends[name].info.priority for name in NAMES}
    assert priorities.pop("cpu") == 0
    assert set(priorities.values()) == {100}


def test_what_torch_and_builds_call_them(backends: dict[str, Backend]) -> None:
    kinds = {name: backends[name].info.torch_device_type for name in NAMES}
    assert kinds == {"cpu": "cpu", "cuda": "cuda", "mps": "mps", "rocm": "cuda", "xpu": "xpu"}
    noarch = {name: backends[name].info.noarch_name for name in NAMES}
    assert noarch == {"cpu": "cpu", "cuda": "cuda", "mps": "metal", "rocm": "rocm", "xpu": "xpu"}


def test_what_torch_was_built_without_is_named_as_the_reason(backends: dict[str, Backend]) -> None:
    import torch

    assert backends["cpu"].detection() == Detection(1)
    versions = {name: getattr(torch.version, name, None) for name in ("cuda", "xpu")}
    for name, built in {**versions, "rocm": torch.version.hip}.items():
        if built is None:
            detection = backends[name].detection()
            assert detection.runtime_version is None
            assert str(torch.__version__) in detection.reason
            assert "built without" in detection.reason


def test_tags_belong_to_one_backend_each(backends: dict[str, Backend]) -> None:
    for owner, text in TAGS.items():
        readers = [name for name in NAMES if backends[name].parse_tag(text)]
        assert readers == [owner]


@pytest.mark.parametrize(
    ("name", "called"), [("cpu", "cpu"), ("mps", "metal"), ("rocm", "rocm"), ("xpu", "xpu")]
)
def test_each_is_found_by_what_hugging_face_kernels_calls_it(
    backends: dict[str, Backend], name: str, called: str
) -> None:
    if backends[name].detection().available:
        assert registry().backend_for(called).name == name
        return
    with pytest.raises(BackendUnavailableError, match=rf"{name} \(kernels-backend-{name} "):
        registry().backend_for(called)
