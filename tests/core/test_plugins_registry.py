"""The registry: conflicts, quarantine, tags, and being made once."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading

import pytest

from kernels_core.errors import BackendUnavailableError, PluginConflictError, PluginError
from kernels_core.hookspecs import BackendTag
from kernels_core.plugins import registry

CLAIMS_EVERY_TAG = """
    @hookimpl
    def kernels_parse_tag(text):
        return BackendTag("{name}", text)
    """
FAILS_TO_PARSE = """
    @hookimpl
    def kernels_parse_tag(text):
        raise RuntimeError("no luck")
    """


def assert_conflict(installed_plugins, phase: str, claimed: str) -> None:
    """`acme` and `other` cannot be used, each recorded and warned of once, and `zeta` can."""
    loaded = installed_plugins.load()
    assert list(loaded.backends) == ["zeta"]
    assert [failure.plugin for failure in loaded.failures] == ["acme", "other"]
    assert len(installed_plugins.warnings) == 2
    for failure, warning in zip(loaded.failures, installed_plugins.warnings, strict=True):
        assert failure.phase == failure.error.phase == phase
        assert type(failure.error) is PluginConflictError
        assert failure.distribution == f"{failure.plugin}-kernels 0.1"
        for text in ("acme-kernels 0.1", "other-kernels 0.1", phase, claimed, "uninstall"):
            assert text in str(failure.error)
        assert str(failure.error) in warning
    for name in ("acme", "other"):
        for ask in (loaded.backend, loaded.backend_for):
            with pytest.raises(PluginConflictError, match=r"acme-kernels 0\.1.*other-kernels 0\.1"):
                ask(name)
    assert loaded.backend_for("zeta").name == "zeta"
    assert loaded.default_backend().name == "zeta"


def test_plugins_that_declare_one_name_are_all_out(installed_plugins):
    installed_plugins.install("zeta")
    installed_plugins.install("acme")
    installed_plugins.install("other", declares="acme", noarch_name="other")
    assert_conflict(installed_plugins, "declare", "the backend name 'acme'")


def test_plugins_that_declare_one_noarch_name_are_all_out(installed_plugins):
    installed_plugins.install("zeta")
    installed_plugins.install("acme", noarch_name="metal")
    installed_plugins.install("other", noarch_name="metal")
    assert_conflict(installed_plugins, "declare", "the no-arch name 'metal'")


def test_plugins_that_claim_everything_of_each_other_are_warned_of_once(installed_plugins):
    installed_plugins.install("zeta")
    installed_plugins.install("acme")
    installed_plugins.install("other", declares="acme")
    assert_conflict(installed_plugins, "declare", "the backend name 'acme'")


def test_one_module_in_two_distributions_is_a_conflict(installed_plugins):
    installed_plugins.install("zeta")
    installed_plugins.install("acme")
    installed_plugins.install("other", source="", entry_points={"other": "acme_plugin"})
    assert_conflict(installed_plugins, "declare", "the backend name 'acme'")


def test_a_chain_of_conflicts_takes_out_every_link(installed_plugins):
    installed_plugins.install("a", declares="same", noarch_name="first")
    installed_plugins.install("b", declares="same", noarch_name="second")
    installed_plugins.install("c", noarch_name="second")
    loaded = installed_plugins.load()
    assert not loaded.backends
    assert [failure.plugin for failure in loaded.failures] == ["a", "b", "c"]


def test_switching_one_off_resolves_a_conflict(installed_plugins, monkeypatch):
    installed_plugins.install("acme")
    installed_plugins.install("other", declares="acme")
    monkeypatch.setenv("KERNELS_DISABLED_BACKENDS", "acme")
    assert installed_plugins.load().backend("acme").distribution == "other-kernels 0.1"
    assert installed_plugins.warnings == []


def test_tags_are_read_by_the_plugin_that_knows_them(installed_plugins):
    installed_plugins.install("acme")
    installed_plugins.install("zeta")
    loaded = installed_plugins.load()
    assert loaded.parse_tag("acme") == BackendTag("acme", "acme")
    assert loaded.parse_tag("zeta") == BackendTag("zeta", "zeta")
    assert loaded.parse_tag("cu130") is None


def test_plugins_that_claim_one_tag_are_both_out(installed_plugins):
    installed_plugins.install("zeta")
    installed_plugins.install("acme", kernels_parse_tag=CLAIMS_EVERY_TAG)
    installed_plugins.install("other", kernels_parse_tag=CLAIMS_EVERY_TAG)
    loaded = installed_plugins.load()
    assert loaded.failures == ()
    for _ in range(2):
        with pytest.raises(PluginConflictError, match=r"acme-kernels 0\.1.*other-kernels 0\.1"):
            installed_plugins.watch(loaded.parse_tag, "x1")
    assert_conflict(installed_plugins, "parse_tag", "the tag 'x1'")
    # Their other tags are not parsed any more, either.
    assert loaded.parse_tag("x2") is None
    assert loaded.parse_tag("zeta") == BackendTag("zeta", "zeta")


def test_a_plugin_that_fails_on_a_tag_is_out_and_the_others_answer(installed_plugins):
    installed_plugins.install("acme", kernels_parse_tag=FAILS_TO_PARSE)
    installed_plugins.install("zeta")
    loaded = installed_plugins.load()
    for _ in range(2):
        tag = installed_plugins.watch(loaded.parse_tag, "zeta")
        assert tag == BackendTag("zeta", "zeta")
    (failure,) = loaded.failures
    (warning,) = installed_plugins.warnings
    assert (failure.plugin, failure.phase) == ("acme", "parse_tag")
    assert "no luck" in warning
    assert "no luck" in failure.traceback
    assert list(loaded.backends) == ["zeta"]
    with pytest.raises(BackendUnavailableError, match="no luck") as raised:
        loaded.backend_for("acme")
    assert raised.value.__cause__ is failure.error


@pytest.mark.parametrize(
    ("change", "use", "phase"),
    [
        ({"declares": "zeta"}, lambda: registry(), "declare"),
        ({"kernels_parse_tag": FAILS_TO_PARSE}, lambda: registry().parse_tag("x"), "parse_tag"),
        ({"detection": "1 / 0"}, lambda: registry().backend_for("acme"), "detect"),
        ({"detection": "1 / 0"}, lambda: registry().default_backend(), "detect"),
    ],
)
def test_strict_mode_raises_instead_of_going_on(installed_plugins, monkeypatch, change, use, phase):
    installed_plugins.install("acme", **change)
    installed_plugins.install("zeta")
    monkeypatch.setenv("KERNELS_STRICT_PLUGINS", "1")
    for _ in range(2):
        with pytest.raises(PluginError) as raised:
            installed_plugins.watch(use)
        assert raised.value.phase == phase
    assert installed_plugins.warnings == []


def test_the_backends_cannot_be_changed_from_outside(installed_plugins):
    loaded = installed_plugins.load()
    with pytest.raises(TypeError):
        loaded.backends["acme"] = None


def test_failures_survive_pickling(installed_plugins):
    installed_plugins.install("acme", detection="1 / 0")
    with pytest.raises(PluginError) as raised:
        installed_plugins.load().backend("acme").detection()
    copy = pickle.loads(pickle.dumps(raised.value))
    assert (str(copy), copy.plugin, copy.phase) == (str(raised.value), "acme", "detect")


COUNTS_IMPORTS = """
    import pathlib, os, time
    with open(pathlib.Path(__file__).with_name("imports.txt"), "a") as counter:
        counter.write("imported\\n")
    time.sleep(0.1)
    """
COUNTS_DETECTIONS = """
    @hookimpl
    def kernels_detect(host):
        with open(pathlib.Path(__file__).with_name("detections.txt"), "a") as counter:
            counter.write("detected\\n")
        return Detection(1)
    """


def lines(folder, name: str) -> int:
    path = folder / name
    return len(path.read_text().splitlines()) if path.exists() else 0


def test_sixteen_threads_discover_once(installed_plugins):
    installed_plugins.install("acme", also=COUNTS_IMPORTS, kernels_detect=COUNTS_DETECTIONS)
    installed_plugins.install("other", source="raise RuntimeError('no luck')")
    barrier = threading.Barrier(16)
    seen = []

    def ask():
        barrier.wait()
        seen.append(registry())

    def ask_in_threads():
        threads = [threading.Thread(target=ask) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    installed_plugins.watch(ask_in_threads)
    assert len(seen) == 16
    assert len(set(map(id, seen))) == 1
    assert len(installed_plugins.warnings) == 1
    assert lines(installed_plugins.folder, "imports.txt") == 1
    assert lines(installed_plugins.folder, "detections.txt") == 0


FORKS = """
import os, sys
from kernels_core.plugins import registry

before = registry()
assert "acme" in before.backends
sys.stdout.flush()
child = os.fork()
same = registry() is before
found = registry().backend_for("acme").detection().device_count == 1
if child == 0:
    os._exit(0 if same and found else 1)
_, status = os.waitpid(child, 0)
sys.exit(os.waitstatus_to_exitcode(status) or not (same and found))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform cannot fork")
def test_a_forked_process_keeps_what_was_found_and_detects_for_itself(installed_plugins):
    installed_plugins.install("acme", also=COUNTS_IMPORTS, kernels_detect=COUNTS_DETECTIONS)
    environment = {**os.environ, "PYTHONPATH": str(installed_plugins.folder)}
    # Only this plugin, found by a process whose metadata nobody has patched.
    environment["KERNELS_BACKENDS"] = "acme"
    subprocess.run([sys.executable, "-W", "error", "-c", FORKS], check=True, env=environment)
    assert lines(installed_plugins.folder, "imports.txt") == 1
    assert lines(installed_plugins.folder, "detections.txt") == 2


def test_a_backend_is_also_found_by_the_name_of_its_builds_without_native_code(installed_plugins):
    installed_plugins.install("acme", noarch_name="anvil")
    installed_plugins.install("zeta", noarch_name="acmefree")
    loaded = installed_plugins.load()
    assert loaded.backend_for("anvil").name == "acme"
    assert loaded.backend_or_default("anvil").name == "acme"


def test_the_name_of_a_backend_counts_before_the_name_of_builds(installed_plugins):
    installed_plugins.install("acme", noarch_name="anvil")
    installed_plugins.install("anvil", noarch_name="hammer", detection="1 / 0")
    loaded = installed_plugins.load()
    for _ in range(2):
        with pytest.raises(BackendUnavailableError, match="anvil"):
            installed_plugins.watch(loaded.backend_for, "anvil")
