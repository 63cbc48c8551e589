"""The CUDA backend keeps the contract of the hooks, on recorded machines and on this one."""

from pathlib import Path

from kernels_core.testing import BackendConformance


class TestConformance(BackendConformance):
    plugin = "cuda"
    hosts = Path(__file__).with_name("hosts.json")
