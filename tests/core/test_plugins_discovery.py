"""Which plugins are found, and which of them the environment enables."""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata

import pytest

from kernels_core.errors import BackendNotInstalledError, PluginConflictError, PluginError
from kernels_core.plugins import BlockedPlugin, reset


def test_an_installed_plugin_is_found(installed_plugins):
    installed_plugins.install("acme")
    registry = installed_plugins.load()
    backend = registry.backends["acme"]
    assert (backend.plugin, backend.distribution) == ("acme", "acme-kernels 0.1")
    assert (registry.failures, registry.blocked, installed_plugins.warnings) == ((), (), [])


def test_backends_are_sorted_by_name(installed_plugins):
    for name in ("zeta", "acme", "mono"):
        installed_plugins.install(name)
    assert list(installed_plugins.load().backends) == ["acme", "mono", "zeta"]


def test_one_distribution_may_bring_several_plugins(installed_plugins):
    installed_plugins.install("acme", entry_points={"acme": "acme_plugin", "zeta": "zeta_plugin"})
    installed_plugins.install("zeta", entry_points={"zeta": "zeta_plugin"}, distribution="unused")
    (installed_plugins.folder / "unused-0.1.dist-info" / "entry_points.txt").unlink()
    assert list(installed_plugins.load().backends) == ["acme", "zeta"]


def test_other_groups_are_ignored(installed_plugins):
    info = installed_plugins.install("acme")
    (info / "entry_points.txt").write_text("[kernels_core.tools]\nacme = acme_plugin\n")
    assert not installed_plugins.load().backends


def test_a_distribution_that_stands_on_the_path_twice_counts_once(installed_plugins, tmp_path):
    installed_plugins.install("acme", version="0.2")
    second = tmp_path / "second"
    second.mkdir()
    installed_plugins.install("acme", version="0.1", folder=second)
    installed_plugins.path.append(str(second))
    registry = installed_plugins.load()
    assert registry.backends["acme"].distribution == "acme-kernels 0.2"
    assert not registry.failures


def test_a_distribution_spelt_in_two_ways_counts_once(installed_plugins, tmp_path):
    installed_plugins.install("acme", distribution="Acme.Kernels")
    second = tmp_path / "second"
    second.mkdir()
    installed_plugins.install("acme", distribution="acme-kernels", folder=second)
    installed_plugins.path.append(str(second))
    assert list(installed_plugins.load().backends) == ["acme"]


@pytest.mark.parametrize("distributions", [("acme", "acme"), ("Acme.Kernels", "acme_kernels")])
@pytest.mark.parametrize("name", ["acme", "renamed"])
def test_an_older_version_later_on_the_path_does_not_count(
    installed_plugins, tmp_path, distributions, name
):
    new, old = distributions
    installed_plugins.install("acme", distribution=new, version="2.0")
    second = tmp_path / "second"
    second.mkdir()
    (second / "old_plugin.py").write_text("raise RuntimeError('imported')")
    installed_plugins.install(
        "unused", distribution=old, folder=second, entry_points={name: "old_plugin"}
    )
    installed_plugins.path += [str(second), *installed_plugins.path]
    registry = installed_plugins.load()
    assert [backend.distribution for backend in registry.backends.values()] == [f"{new} 2.0"]
    assert registry.failures == ()
    seen = metadata.entry_points(group="kernels_core.backends")
    assert [entry.value for entry in seen] == ["acme_plugin"]


def test_a_newer_version_without_a_plugin_hides_the_older_ones(installed_plugins, tmp_path):
    info = installed_plugins.install("acme", version="2.0")
    (info / "entry_points.txt").unlink()
    second = tmp_path / "second"
    second.mkdir()
    installed_plugins.install("acme", version="1.0", folder=second)
    installed_plugins.path.append(str(second))
    assert not installed_plugins.load().backends


def test_metadata_of_an_egg_hides_an_older_wheel(installed_plugins, tmp_path):
    second = tmp_path / "second"
    second.mkdir()
    info = installed_plugins.install("acme", version="1.0", folder=second)
    egg = installed_plugins.folder / "acme_kernels.egg-info"
    egg.mkdir()
    text = (info / "METADATA").read_text().replace("1.0", "2.0")
    (egg / "PKG-INFO").write_text(text)
    (egg / "entry_points.txt").write_text("[kernels_core.backends]\nacme = egg_plugin\n")
    (installed_plugins.folder / "egg_plugin.py").write_text((second / "acme_plugin.py").read_text())
    installed_plugins.path.append(str(second))
    registry = installed_plugins.load()
    assert registry.backends["acme"].distribution == "acme-kernels 2.0"
    assert registry.failures == ()


def test_metadata_without_a_name_hides_an_older_version_too(installed_plugins, tmp_path):
    info = installed_plugins.install("acme", version="2.0")
    (info / "METADATA").unlink()
    second = tmp_path / "second"
    second.mkdir()
    (second / "old_plugin.py").write_text("raise RuntimeError('imported')")
    installed_plugins.install(
        "unused", distribution="acme-kernels", folder=second, entry_points={"acme": "old_plugin"}
    )
    installed_plugins.path.append(str(second))
    registry = installed_plugins.load()
    assert list(registry.backends) == ["acme"]
    assert registry.failures == ()


def test_what_an_interrupted_removal_left_does_not_count(installed_plugins):
    installed_plugins.install("acme", version="2.0")
    old = installed_plugins.install(
        "unused", distribution="acme-kernels", entry_points={"acme": "removed_plugin"}
    )
    old.rename(old.with_name("~cme_kernels-0.1.dist-info"))
    registry = installed_plugins.load()
    assert registry.backends["acme"].distribution == "acme-kernels 2.0"
    assert registry.failures == ()


def test_two_distributions_with_one_plugin_name_remain_a_conflict(installed_plugins, tmp_path):
    installed_plugins.install("acme")
    installed_plugins.install("zeta", declares="acme", entry_points={"acme": "zeta_plugin"})
    registry = installed_plugins.load()
    assert not registry.backends
    assert {failure.distribution for failure in registry.failures} == {
        "acme-kernels 0.1",
        "zeta-kernels 0.1",
    }
    assert {type(failure.error) for failure in registry.failures} == {PluginConflictError}


def test_unreadable_entry_points_are_reported_and_hide_nobody(installed_plugins):
    installed_plugins.install("acme")
    info = installed_plugins.install("zeta")
    (info / "entry_points.txt").write_text("[kernels_core.backends]\nno equals sign\n")
    registry = installed_plugins.load()
    assert list(registry.backends) == ["acme"]
    (failure,) = registry.failures
    assert (failure.distribution, failure.phase) == ("zeta-kernels 0.1", "discover")
    assert "reinstall" in str(failure.error)


def test_a_plugin_in_a_package_without_metadata_works(installed_plugins):
    info = installed_plugins.install("acme")
    (info / "METADATA").unlink()
    backend = installed_plugins.load().backends["acme"]
    assert str(installed_plugins.folder) in backend.distribution


def test_malformed_entry_points_of_a_stranger_do_not_matter(installed_plugins):
    info = installed_plugins.install("zeta")
    (info / "entry_points.txt").write_text("[console_scripts]\nno equals sign\n")
    assert installed_plugins.load().failures == ()


@pytest.mark.parametrize(
    ("allowed", "found"),
    [("", []), (" ", []), ("acme", ["acme"]), (" ZETA , acme", ["acme", "zeta"]), ("mono", [])],
)
def test_the_allow_list(installed_plugins, monkeypatch, allowed, found):
    installed_plugins.install("acme")
    installed_plugins.install("zeta")
    monkeypatch.setenv("KERNELS_BACKENDS", allowed)
    registry = installed_plugins.load()
    assert list(registry.backends) == found
    assert sorted(blocked.plugin for blocked in registry.blocked) == sorted(
        {"acme", "zeta"} - set(found)
    )


def test_a_denied_plugin_is_not_even_imported(installed_plugins, monkeypatch):
    installed_plugins.install("acme", source="raise RuntimeError('imported')")
    installed_plugins.install("zeta")
    monkeypatch.setenv("KERNELS_DISABLED_BACKENDS", "acme,unknown")
    registry = installed_plugins.load()
    assert list(registry.backends) == ["zeta"]
    assert registry.failures == ()
    assert registry.blocked == (
        BlockedPlugin("acme", "acme-kernels 0.1", "KERNELS_DISABLED_BACKENDS lists 'acme'"),
    )


def test_the_lists_do_not_mind_case(installed_plugins, monkeypatch):
    installed_plugins.install("acme", entry_points={"Acme": "acme_plugin"})
    monkeypatch.setenv("KERNELS_DISABLED_BACKENDS", "aCME")
    assert not installed_plugins.load().backends


def test_the_deny_list_wins_over_the_allow_list(installed_plugins, monkeypatch):
    installed_plugins.install("acme")
    monkeypatch.setenv("KERNELS_BACKENDS", "acme")
    monkeypatch.setenv("KERNELS_DISABLED_BACKENDS", "acme")
    assert not installed_plugins.load().backends


@pytest.mark.parametrize(
    ("variable", "value"), [("KERNELS_BACKENDS", ""), ("KERNELS_DISABLED_BACKENDS", "acme")]
)
def test_asking_for_a_blocked_plugin_names_the_variable(
    installed_plugins, monkeypatch, variable, value
):
    installed_plugins.install("acme")
    monkeypatch.setenv(variable, value)
    registry = installed_plugins.load()
    for ask in (registry.backend, registry.backend_for):
        with pytest.raises(BackendNotInstalledError, match=f"acme-kernels 0.1.*{variable}"):
            ask("acme")


def test_reset_finds_what_was_installed_since(installed_plugins):
    assert not installed_plugins.load().backends
    installed_plugins.install("acme")
    assert not installed_plugins.load().backends
    reset()
    assert list(installed_plugins.load().backends) == ["acme"]


def test_importing_the_plugin_host_loads_no_plugin(installed_plugins):
    installed_plugins.install("acme", source="raise SystemExit('imported')")
    code = "import kernels_core.plugins, sys; assert 'acme_plugin' not in sys.modules"
    subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        check=True,
        env={"PYTHONPATH": str(installed_plugins.folder)},
    )


def test_strict_mode_raises_for_unreadable_entry_points_too(installed_plugins, monkeypatch):
    info = installed_plugins.install("zeta")
    (info / "entry_points.txt").write_text("[kernels_core.backends]\nno equals sign\n")
    monkeypatch.setenv("KERNELS_STRICT_PLUGINS", "1")
    with pytest.raises(PluginError, match="zeta-kernels"):
        installed_plugins.load()
