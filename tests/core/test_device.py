"""Devices and what a mapping entry may require of them."""

import pickle

import pytest

from kernels_core import (
    Architectures,
    CapabilityRange,
    CUDAProperties,
    Device,
    DeviceProperties,
    Features,
    MinimumVersions,
    ROCMProperties,
)


@pytest.mark.parametrize("device_type", ["cuda", "rocm", "mps", "xpu", "cpu", "acme"])
def test_any_device_type_can_be_declared(device_type):
    assert Device(device_type).type == device_type
    assert Device(type=device_type, properties=None) == Device(device_type)


@pytest.mark.parametrize(
    ("device_type", "properties"),
    [("cuda", CUDAProperties(75, 90)), ("rocm", ROCMProperties(0, 9))],
)
def test_properties_belong_to_their_type(device_type, properties):
    assert Device(device_type, properties).properties == properties
    with pytest.raises(ValueError, match=f"belongs to device type '{device_type}', not 'cpu'"):
        Device("cpu", properties)


def test_equal_devices_are_one_key():
    ranged = Device("cuda", CUDAProperties(min_capability=75, max_capability=90))
    again = Device(type="cuda", properties=CUDAProperties(75, 90))
    assert {ranged: 1}[again] == 1
    assert ranged != Device("cuda")
    assert CUDAProperties(75, 90) != CapabilityRange(75, 90)


@pytest.mark.parametrize("bounds", [(90, 75), (-1, 5)])
def test_bad_ranges_are_refused_when_made(bounds):
    with pytest.raises(ValueError, match="capability"):
        CUDAProperties(*bounds)


@pytest.mark.parametrize("bounds", [(7.5, 90), ("75", 90), (True, 90), (None, 90)])
def test_capabilities_are_integers(bounds):
    with pytest.raises(TypeError, match=r"integer such as 75 for 7\.5"):
        CUDAProperties(*bounds)


@pytest.mark.parametrize("device_type", ["cuda:0", "CUDA", "", "my device"])
def test_a_device_type_is_a_plain_name(device_type):
    with pytest.raises(ValueError, match="not a lower-case name"):
        Device(device_type)


def test_wrong_types_are_named():
    with pytest.raises(TypeError, match="must be a string"):
        Device(7)
    with pytest.raises(TypeError, match="must be a DeviceProperties"):
        Device("cuda", (75, 90))


def test_names_are_a_set():
    assert Features(["avx2", "fma"]) == Features({"fma", "avx2"})
    assert Architectures("gfx942").names == {"gfx942"}
    with pytest.raises(ValueError, match="at least one"):
        Features([])


def test_minimum_versions_are_versions():
    assert MinimumVersions({"b": "2", "a": "1"}) == MinimumVersions([("a", "1"), ("b", "2")])
    with pytest.raises(ValueError, match="'new' for 'macos' is not a version"):
        MinimumVersions({"macos": "new"})
    with pytest.raises(ValueError, match="at least one"):
        MinimumVersions({})


@pytest.mark.parametrize(
    "properties",
    [CUDAProperties(75, 90), Features({"avx2"}), MinimumVersions({"macos": "26"})],
)
def test_properties_survive_pickling(properties):
    assert isinstance(properties, DeviceProperties)
    assert pickle.loads(pickle.dumps(properties)) == properties


def test_create_repo_gives_an_empty_set_for_the_type():
    repositories = Device("cuda", CUDAProperties(75, 90)).create_repo()
    assert repositories.device_type == "cuda"
    assert repositories.entries == {}
