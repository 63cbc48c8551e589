"""Rules about the kernels that a plugin provides, and how it orders candidates."""

from __future__ import annotations

from kernels_core.errors import KernelsError
from kernels_core.hookspecs import SelectionRequest
from kernels_core.layers.mapping import use_kernel_mapping
from kernels_core.testing.base import Rules
from kernels_core.testing.questions import MODES, candidates
from kernels_core.testing.rule import fail, rule, skip


class SelectionRules(Rules):
    """The optional hooks `kernels_select` and `kernels_bundled`."""

    @rule
    def test_select_permutes(self) -> None:
        """`kernels_select` returns the given candidates in some order, or None.

        Fix: only sort them. The core has left out those that do not fit, and uses later ones if
        earlier ones cannot be loaded.
        """
        backend = self.subject.backend()
        for facts, expected in self.all_devices():
            everything = candidates(self.requirements_of(expected))
            for mode in MODES[:2]:
                for count in (0, 1, len(everything)):
                    backend.select(SelectionRequest("Layer", mode, facts), everything[:count])

    @rule
    def test_bundled(self) -> None:
        """`kernels_bundled` returns a kernel mapping for the backend's own device type.

        Fix: return `{layer name: {device: repository}}`, with the backend's name or a `Device`
        of that type as the device, and repositories with a method `load`. Kernels for other
        devices belong to their plugins.
        """
        mapping = self.subject.backend().bundled()
        try:
            use_kernel_mapping(mapping)
        except KernelsError as error:
            fail(str(error))
        if not mapping:
            skip("the plugin provides no kernels")
