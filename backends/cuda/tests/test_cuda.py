"""The CUDA backend when its devices cannot be used, and its rules one by one."""

import ctypes
import itertools
import os
import signal
from typing import Any

import attrs
import pytest

from kernels_backend_cuda import _probe, plugin
from kernels_backend_cuda._archs import covers
from kernels_backend_cuda.facts import CUDAFacts
from kernels_core.device import CUDAProperties
from kernels_core.hookspecs import BackendTag, Detection, Match

H100 = CUDAFacts(0, "NVIDIA H100", capability=(9, 0), total_memory=80 * 2**30)


def detect(runtime: _probe.Runtime, monkeypatch: pytest.MonkeyPatch, make_host: Any) -> Detection:
    monkeypatch.setattr(_probe, "runtime", lambda: runtime)
    return plugin.kernels_detect(make_host("2.13.0+cu130"))


@pytest.mark.parametrize(
    ("runtime", "reason"),
    [
        (
            _probe.Runtime("13.0", driver=None, device_count=0),
            "CUDA 13.0 runtime is present, 0 devices: no NVIDIA driver was found",
        ),
        (
            _probe.Runtime("13.0", driver=(12, 2), device_count=1),
            "CUDA 13.0 runtime is present, 1 device: the NVIDIA driver supports CUDA 12.2 at most, "
            "update it",
        ),
        (
            _probe.Runtime("13.0", driver=(13, 0), device_count=0),
            "CUDA 13.0 runtime is present, 0 devices: the NVIDIA driver supports CUDA 13.0, does "
            "CUDA_VISIBLE_DEVICES hide them?",
        ),
    ],
)
def test_a_runtime_without_a_usable_device_is_named(
    runtime: _probe.Runtime, reason: str, monkeypatch: pytest.MonkeyPatch, make_host: Any
) -> None:
    detection = detect(runtime, monkeypatch, make_host)
    assert detection == Detection(0, runtime_version="13.0", reason=reason)


def test_torch_without_cuda(monkeypatch: pytest.MonkeyPatch, make_host: Any) -> None:
    detection = detect(_probe.Runtime(cuda=None), monkeypatch, make_host)
    assert detection == Detection(0, reason="torch 2.13.0+cu130 was built without CUDA")


@pytest.mark.parametrize("driver", [(12, 2), (12, 8), (13, 1), None])
def test_a_driver_of_the_same_major_version_is_enough(
    driver: tuple[int, int] | None, monkeypatch: pytest.MonkeyPatch, make_host: Any
) -> None:
    # Some systems hide libcuda from everything but torch: then the devices that it sees count.
    detection = detect(_probe.Runtime("12.8", driver, device_count=2), monkeypatch, make_host)
    assert detection == Detection(2, runtime_version="12.8")


def test_tags_need_the_same_major_and_rank_by_minor() -> None:
    detection = Detection(1, runtime_version="12.10")

    def match(text: str) -> Match:
        tag = plugin.kernels_parse_tag(text)
        assert tag is not None
        return plugin.kernels_match_tag(tag, detection)

    fitting = [match(text) for text in ("cu1210", "cu129", "cu128", "cu120")]
    assert all(one.fits for one in fitting)
    assert all(better > worse for better, worse in itertools.pairwise(fitting))
    assert match("cu1211").reason == "built for CUDA 12.11, and the runtime is 12.10"
    assert match("cu118").reason == "built for CUDA 11.8, and the runtime is 12.10"
    assert match("cu130").reason == "built for CUDA 13.0, and the runtime is 12.10"


def test_where_there_is_no_runtime_the_reason_says_so() -> None:
    nothing = Detection(0, reason="torch was built without CUDA")
    match = plugin.kernels_match_tag(BackendTag("cuda", "cu", (12, 8)), nothing)
    assert match.reason == "built for CUDA 12.8, and there is no CUDA runtime"


def test_the_narrowest_range_is_best() -> None:
    ranges = [(90, 90), (89, 90), (80, 100), (0, 999)]
    matches = [plugin.kernels_match_device(CUDAProperties(*bounds), H100) for bounds in ranges]
    assert all(match.fits for match in matches)
    assert all(better > worse for better, worse in itertools.pairwise(matches))


@pytest.mark.parametrize(
    "arch",
    [
        "",
        "9",
        "90",
        "sm_90",
        "9.0b",
        "9.0A",
        "9.0af",
        "9.0+ptx",
        "9.0+PTX+PTX",
        "9.0 ",
        "\uff19.0",
        "x.y",
    ],
)
def test_architectures_that_cannot_be_read(arch: str) -> None:
    assert covers(arch, H100) is None


@pytest.mark.parametrize(
    ("capability", "levels"),
    [((8, 9), ()), ((9, 0), ("a",)), ((10, 0), ("a", "f")), ((12, 1), ("a", "f"))],
)
def test_feature_levels(capability: tuple[int, int], levels: tuple[str, ...]) -> None:
    assert attrs.evolve(H100, capability=capability).feature_levels == levels


# https://docs.nvidia.com/cuda/cuda-programming-guide/05-appendices/compute-capabilities.html
@pytest.mark.parametrize(
    ("arch", "covered"),
    [
        ("9.0a", [(9, 0)]),
        ("10.0f", [(10, 0), (10, 3)]),
        ("10.1f", [(10, 1)]),  # CUDA 13 calls it 11.0, and it was never of the family of 10.0
        ("10.3f", [(10, 3)]),
        ("10.3a", [(10, 3)]),
        ("11.0f", [(11, 0)]),
        ("12.0f", [(12, 0), (12, 1)]),
        ("12.1f", [(12, 1)]),
        ("12.0f+PTX", [(12, 0), (12, 1)]),
        ("8.6a", []),  # neither level existed then
        ("9.0f", []),
    ],
)
def test_specific_code_runs_on_its_architecture_or_family(
    arch: str, covered: list[tuple[int, int]]
) -> None:
    capabilities = [(8, 6), (9, 0), (10, 0), (10, 1), (10, 3), (11, 0), (12, 0), (12, 1)]
    devices = [attrs.evolve(H100, capability=capability) for capability in capabilities]
    assert [facts.capability for facts in devices if covers(arch, facts)] == covered


def test_builds_whose_architectures_nobody_can_read_are_accepted() -> None:
    assert plugin.kernels_match_archs(["compute_hopper", "x"], H100).fits
    match = plugin.kernels_match_archs(["8.0", "compute_hopper"], H100)
    assert match.reason == "built for 8.0, compute_hopper, and the device has capability 9.0"


class FakeDriver:
    """Replaces libcuda. Nobody has initialised it, unless it has a count."""

    def __init__(self, number: int = 13000, status: int = 0, count: int | None = None):
        self._number, self._status, self._count = number, status, count

    def cuDriverGetVersion(self, pointer: Any) -> int:  # noqa: N802
        ctypes.cast(pointer, ctypes.POINTER(ctypes.c_int))[0] = self._number
        return self._status

    def cuDeviceGetCount(self, pointer: Any) -> int:  # noqa: N802
        return 3 if self._count is None else 0


@pytest.mark.parametrize(
    ("driver", "version"),
    [
        (FakeDriver(13000), (13, 0)),
        (FakeDriver(12080), (12, 8)),
        (FakeDriver(12100), (12, 10)),
        (FakeDriver(0, status=34), None),
        (object(), None),
        (None, None),
    ],
)
def test_the_driver_version_is_read_from_the_driver(
    driver: object, version: tuple[int, int] | None
) -> None:
    assert _probe._driver_version(driver) == version


@pytest.fixture
def counted_here(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A torch that sees three devices; it holds an entry for each count in this process."""
    torch = pytest.importorskip("torch")
    calls: list[str] = []

    def count() -> int:
        calls.append("count")
        return 3

    monkeypatch.setattr(torch.cuda, "device_count", count)
    monkeypatch.setattr(_probe, "_has_devices", lambda: False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return calls


def without_nvml(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_probe, "_library", lambda name: None)


def test_without_a_driver_torch_is_not_asked(counted_here: list[str]) -> None:
    assert _probe._device_count(None) == 0
    assert counted_here == []


def test_torch_counts_in_this_process_if_nvml_answers(
    counted_here: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class NVML:
        def nvmlInit_v2(self) -> int:  # noqa: N802
            return 0

    monkeypatch.setattr(_probe, "_library", lambda name: NVML())
    assert _probe._device_count(FakeDriver()) == 3
    assert counted_here == ["count"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
@pytest.mark.parametrize("visible", ["0", "MIG-0a1b2c3d"])
def test_torch_counts_in_a_child_if_it_would_initialise_the_driver(
    visible: str, counted_here: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    without_nvml(monkeypatch)
    assert _probe._device_count(FakeDriver()) == 3
    assert counted_here == []


def test_torch_counts_in_this_process_if_the_driver_is_initialised(
    counted_here: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    without_nvml(monkeypatch)
    assert _probe._device_count(FakeDriver(count=3)) == 3
    assert counted_here == ["count"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_torch_is_asked_about_devices_whose_driver_only_torch_finds(
    counted_here: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    without_nvml(monkeypatch)
    monkeypatch.setattr(_probe, "_has_devices", lambda: True)
    assert _probe._device_count(None) == 3
    assert counted_here == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_count_that_fails_in_the_child_is_none() -> None:
    def failing() -> int:
        raise RuntimeError("the driver does not answer")

    assert _probe._in_child(failing) == 0
    assert _probe._in_child(lambda: os.kill(os.getpid(), signal.SIGKILL)) == 0
