"""What the kit reports for plugins that it cannot check with every rule."""

from __future__ import annotations

import inspect

import pytest

from kernels_core.testing import BackendConformance
from kernels_core.testing.machines import RecordedMachine

NO_MACHINE = "no machine is recorded: set `hosts`"
RULES = [name for name in dir(BackendConformance) if name.startswith("test_")]


def verdicts(conformance: BackendConformance) -> dict[str, str]:
    """By name of a rule that is broken or skipped: why."""
    found = {}
    for name in RULES:
        method = getattr(conformance, name)
        if "machine" not in inspect.signature(method).parameters:
            try:
                method()
            except (pytest.skip.Exception, pytest.fail.Exception) as outcome:
                found[name] = f"{type(outcome).__name__}: {outcome.msg}"
    return found


def test_without_recorded_machines_this_machine_is_checked() -> None:
    pytest.importorskip("torch")

    class NoHosts(BackendConformance):
        plugin = "cpu"

    assert verdicts(NoHosts()) == {
        "test_answers_repeatable": f"Skipped: {NO_MACHINE}",
        "test_detection_failing": f"Skipped: {NO_MACHINE}",
        "test_match_tag_total": "Skipped: no tag is recorded",
        "test_recorded_machines": f"Skipped: {NO_MACHINE}",
        "test_tags_valid": "Skipped: no tag is recorded",
    }


def test_for_a_missing_plugin_every_other_rule_is_skipped() -> None:
    class Missing(BackendConformance):
        plugin = "teapot"

    found = verdicts(Missing())
    assert "no entry point has this name; those installed: " in found.pop("test_entry_point")
    assert set(found) > {"test_import", "test_torch_lazy", "test_detection_truthful"}
    assert all(verdict.startswith("Skipped: ") for verdict in found.values())
    assert found["test_import"] == "Skipped: the rule entry-point is broken"


def test_a_disabled_plugin_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    class Disabled(BackendConformance):
        plugin = "cpu"

    monkeypatch.setenv("KERNELS_DISABLED_BACKENDS", "cpu")
    with pytest.raises(pytest.fail.Exception, match="KERNELS_DISABLED_BACKENDS lists 'cpu'"):
        Disabled().test_entry_point()


def test_a_rule_says_how_to_fix_what_breaks_it() -> None:
    from kernels_core.testing.rule import rule

    with pytest.raises(TypeError, match="does not say how to fix"):

        @rule
        def test_silent(self) -> None:
            """The contract alone."""


def test_a_probe_without_the_recorded_functions_is_an_error() -> None:
    class AnotherProbe(BackendConformance):
        plugin = "cuda"
        probe = "kernels_backend_cuda.facts"

    machine = RecordedMachine("a machine", (), "", "", detection=None, probe={"runtime": {}})
    with pytest.raises(ValueError, match=r"'runtime', but kernels_backend_cuda\.facts has no"):
        AnotherProbe().test_detection_recorded(machine)
