"""The CPU backend keeps the contract of the hooks, on recorded machines and on this one.

What the operating system listed on a recorded machine is given to archspec as if it had read it
itself, so that the probe really runs.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

from archspec.cpu import detect

from kernels_core.testing import BackendConformance
from kernels_core.testing.machines import RecordedMachine

CAPABILITIES = "kernels_backend_cpu._probe._torch_capabilities"


class TestConformance(BackendConformance):
    plugin = "cpu"
    hosts = Path(__file__).with_name("hosts.json")

    @contextmanager
    def replay(self, machine: RecordedMachine) -> Iterator[None]:
        listed = detect.partial_uarch(
            name=machine.probe.get("name", ""),
            vendor=machine.probe["vendor"],
            features=set(machine.probe["flags"].split()),
            cpu_part=machine.probe["cpu_part"],
        )
        with (
            mock.patch.object(detect, "detected_info", return_value=listed),
            mock.patch.object(detect, "_machine", return_value=machine.probe["architecture"]),
            mock.patch.object(detect.platform, "system", return_value=machine.probe["system"]),
            mock.patch(CAPABILITIES, return_value=machine.probe["torch"]),
        ):
            detect.host.cache_clear()
            yield
        detect.host.cache_clear()
