"""The CPU backend keeps the contract of the hooks, on recorded machines and on this one.

What the operating system listed on a recorded machine is given to archspec as if it had read it
itself, so that the probe really runs.
"""

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from archspec.cpu import detect

from kernels_core.testing import BackendConformance
from kernels_core.testing.machines import RecordedMachine
from kernels_core.testing.replay import replaced


class TestConformance(BackendConformance):
    plugin = "cpu"
    hosts = Path(__file__).with_name("hosts.json")

    @contextmanager
    def replay(self, machine: RecordedMachine) -> Iterator[None]:
        recorded = machine.probe
        listed = detect.partial_uarch(
            name=recorded.get("name", ""),
            vendor=recorded["vendor"],
            features=set(recorded["flags"].split()),
            cpu_part=recorded["cpu_part"],
        )
        archspec = {"detected_info": lambda: listed, "_machine": lambda: machine.host.cpu}
        torch = {"_torch_capabilities": lambda: recorded["torch"]}
        with (
            replaced(detect, archspec),
            replaced(platform, {"system": machine.host.os.capitalize}),
            replaced(self.probe_module(), torch),
        ):
            detect.host.cache_clear()
            yield
        detect.host.cache_clear()
