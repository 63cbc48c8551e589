"""The CPU backend on this machine, and how it merges features."""

import platform
import subprocess
import sys
from pathlib import Path

import pytest

from kernels_backend_cpu import _probe, plugin
from kernels_backend_cpu.facts import known_features
from kernels_core.device import Features


def test_torch_has_the_last_word_where_it_says_yes_or_no() -> None:
    features = known_features(
        frozenset({"avx2", "avx512f", "popcnt"}),
        {"avx512_f": False, "avx_vnni": True, "cpu_name": "a name", "sve_max_length": 32},
    )
    assert features == {"avx2", "popcnt", "avx_vnni"}


@pytest.mark.parametrize(
    ("torch_name", "linux_name"),
    [("avx512_vl", "avx512vl"), ("avx512_bf16", "avx512_bf16"), ("fma3", "fma"), ("sve2", "sve2")],
)
def test_features_go_by_the_names_that_linux_uses(torch_name: str, linux_name: str) -> None:
    assert known_features(frozenset(), {torch_name: True}) == {linux_name}


def test_facts_agree_with_what_torch_says_of_this_machine() -> None:
    import torch

    facts = plugin.kernels_device_facts(0)
    capability = torch.backends.cpu.get_cpu_capability()
    if capability == "AVX512":
        assert facts.features.issuperset({"avx512f", "avx512bw", "avx512vl", "avx512dq", "fma"})
    if capability in ("AVX2", "AVX512"):
        assert facts.features.issuperset({"avx2", "fma"})
    assert torch.cpu._is_amx_tile_supported() == ("amx_tile" in facts.features)
    assert torch.cpu._is_avx512_bf16_supported() == ("avx512_bf16" in facts.features)


@pytest.mark.skipif(platform.system() != "Linux", reason="only Linux lists features in a file")
def test_facts_agree_with_what_linux_says_of_this_machine() -> None:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    listed = {
        flag
        for line in lines
        if line.lower().startswith(("flags", "features"))
        for flag in line.partition(":")[2].split()
    }
    facts = plugin.kernels_device_facts(0)
    interesting = {"sse2", "avx2", "avx512f", "avx512_bf16", "amx_tile", "asimd", "sve", "sve2"}
    assert facts.features & interesting == listed & interesting


def test_a_processor_has_what_it_has_and_lacks_what_nobody_has() -> None:
    facts = plugin.kernels_device_facts(0)
    assert plugin.kernels_match_device(Features(facts.features), facts).fits
    match = plugin.kernels_match_device(Features(["warp_drive"]), facts)
    assert match.reason == "it lacks warp_drive"


def test_without_torch_archspec_alone_is_asked() -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from kernels_backend_cpu import _probe\n"
        "print(dict(_probe.processor().torch))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "{}", result.stderr
    assert _probe.processor().flags
