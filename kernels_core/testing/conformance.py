"""`BackendConformance`: the base class of a plugin's conformance test."""

from __future__ import annotations

import pytest

from kernels_core.testing.base import NO_MACHINE
from kernels_core.testing.rules_declaration import DeclarationRules
from kernels_core.testing.rules_detection import DetectionRules
from kernels_core.testing.rules_matching import MatchingRules
from kernels_core.testing.rules_selection import SelectionRules
from kernels_core.testing.rules_tags import TagRules


class BackendConformance(DeclarationRules, TagRules, DetectionRules, MatchingRules, SelectionRules):
    """Checks an installed backend plugin with every rule of the hook contract.

    Subclass it in a test module as `class TestConformance(BackendConformance)` and run pytest.
    Every rule is a test of its own, whose failure states the contract, what was found and how to
    fix it. A rule that cannot be checked is skipped with the reason.

    Attributes:
        plugin: name of the plugin's entry point.
        hosts: a JSON file of recorded machines (`kernels_core.testing.machines`). Without it, the
            rules about matching are skipped if this machine has no such device.
        probe: name of the module whose functions query the machine; by default `_probe` in the
            package of the plugin's module. On a recorded machine they return what is recorded.
        torch_extension: name of a module that has to be imported for torch to know the device, if
            `import torch` alone is not enough.

    Example:
        >>> from kernels_core.testing import BackendConformance
        >>> class TestConformance(BackendConformance):
        ...     plugin = "cpu"
        >>> TestConformance().test_name()
    """

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Check the rules about recorded machines once for each of them."""
        if "machine" not in metafunc.fixturenames:
            return
        machines = self.machines()
        if machines:
            metafunc.parametrize("machine", machines, ids=[m.machine for m in machines])
        else:
            skipped = pytest.param(None, marks=pytest.mark.skip(reason=NO_MACHINE))
            metafunc.parametrize("machine", [skipped], ids=["none"])
