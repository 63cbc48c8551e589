"""Acme's plugin keeps the contract of the hooks."""

from pathlib import Path

from kernels_core.testing import BackendConformance


class TestConformance(BackendConformance):
    plugin = "acme"
    hosts = Path(__file__).with_name("hosts.json")
    probe = "kernels_backend_acme.device"
