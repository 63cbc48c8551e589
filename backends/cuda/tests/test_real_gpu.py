"""The CUDA backend on a real GPU. Runs only where there is one."""

import os
import subprocess
import sys

import pytest

from kernels_backend_cuda import plugin
from kernels_core.host import host_info


def run(code: str) -> str:
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


# In a child, so that collecting this file initialises nothing in the test process.
pytestmark = pytest.mark.skipif(
    run("import torch; print(torch.version.cuda and torch.cuda.is_available())") != "True",
    reason="this machine has no NVIDIA GPU that torch can use",
)

DETECT = """
import os, warnings
warnings.simplefilter("error")
import torch
from kernels_backend_cuda import _probe, plugin
from kernels_core.host import host_info
detection = plugin.kernels_detect(host_info())
assert detection.available, detection.reason
assert not torch.cuda.is_initialized()
"""


def test_detection_agrees_with_torch() -> None:
    import torch

    detection = plugin.kernels_detect(host_info())
    assert detection.reason == ""
    assert detection.device_count == torch.cuda.device_count()
    assert detection.runtime_version == torch.version.cuda


def test_the_driver_tells_its_version_before_anything_is_initialised() -> None:
    answer = run(
        DETECT + "runtime = _probe.runtime()\n"
        "print(runtime.driver is not None"
        " and runtime.driver[0] >= int(torch.version.cuda.split('.')[0]))"
    )
    assert answer == "True"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_child_forked_after_detection_can_use_the_gpu() -> None:
    answer = run(
        DETECT + "child = os.fork()\n"
        "if child == 0:\n"
        "    total = torch.ones(8, device='cuda').sum().item()\n"
        "    os._exit(0 if total == 8 else 1)\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))"
    )
    assert answer == "0"


def test_hidden_devices_are_none() -> None:
    answer = run(
        "import os; os.environ['CUDA_VISIBLE_DEVICES'] = ''\n"
        "from kernels_backend_cuda import plugin\n"
        "from kernels_core.host import host_info\n"
        "detection = plugin.kernels_detect(host_info())\n"
        "print(detection.device_count, detection.reason)"
    )
    assert answer.startswith("0 CUDA ")
    assert "runtime is present, 0 devices" in answer
    assert "CUDA_VISIBLE_DEVICES" in answer


def test_facts_are_those_of_the_device() -> None:
    import torch

    for index in range(torch.cuda.device_count()):
        facts = plugin.kernels_device_facts(index)
        properties = torch.cuda.get_device_properties(index)
        assert facts.index == index
        assert facts.name == properties.name
        assert facts.capability == torch.cuda.get_device_capability(index)
        assert facts.total_memory == properties.total_memory > 2**30


def test_a_build_for_this_runtime_fits_and_for_a_newer_one_does_not() -> None:
    import torch

    assert torch.version.cuda is not None
    major, minor = map(int, torch.version.cuda.split(".")[:2])
    detection = plugin.kernels_detect(host_info())
    same = plugin.kernels_parse_tag(f"cu{major}{minor}")
    newer = plugin.kernels_parse_tag(f"cu{major}{minor + 1}")
    assert same is not None
    assert newer is not None
    assert plugin.kernels_match_tag(same, detection).fits
    assert not plugin.kernels_match_tag(newer, detection).fits
