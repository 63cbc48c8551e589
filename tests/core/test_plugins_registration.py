"""Which plugins are refused, at which step, and what the refusal says."""

from __future__ import annotations

import pytest

from kernels_core.errors import BackendUnavailableError, PluginError

DECLARE = """
    @hookimpl
    def kernels_backend():
        return BackendInfo(**{
            "name": "acme", "api_version": 1, "torch_device_type": "acme", "noarch_name": "acme",
            "facts": Facts, "properties": (Cores,), %s
        })
    """


def failure_of(installed_plugins, phase: str) -> PluginError:
    """The only failure: recorded, warned of once, and the cause when the backend is requested."""
    registry = installed_plugins.load()
    (failure,) = registry.failures
    (warning,) = installed_plugins.warnings
    about = ("acme", "acme-kernels 0.1", phase)
    assert (failure.plugin, failure.distribution, failure.phase) == about
    error = failure.error
    assert type(error) is PluginError
    assert (error.plugin, error.distribution, error.phase) == about
    for text in ("'acme'", "acme-kernels 0.1", phase):
        assert text in str(error)
    assert str(error) in warning
    assert "`kernels-core doctor`" in warning
    for ask in (registry.backend, registry.backend_for):
        with pytest.raises(BackendUnavailableError) as raised:
            ask("acme")
        assert raised.value.__cause__ is error
        assert str(error) in str(raised.value)
    return error


@pytest.fixture(autouse=True)
def another_plugin(installed_plugins):
    """A working plugin is installed with each broken one, and keeps working."""
    installed_plugins.install("zeta")
    yield
    backend = installed_plugins.load().backend_for("zeta")
    assert backend.device_facts(1).name == "zeta device"


@pytest.mark.parametrize(
    ("source", "cause"),
    [
        ("raise RuntimeError('no luck')", "RuntimeError"),
        ("import a_module_that_does_not_exist", "ModuleNotFoundError"),
        ("this is no Python", "SyntaxError"),
        ("raise SystemExit(3)", "SystemExit"),
        ("class Panic(BaseException): pass\nraise Panic('native code')", "Panic"),
    ],
)
def test_failing_on_import(installed_plugins, source, cause):
    installed_plugins.install("acme", source=source)
    error = failure_of(installed_plugins, "import")
    (failure,) = installed_plugins.load().failures
    assert failure.traceback in str(error.__cause__)
    assert cause in failure.traceback
    assert "acme_plugin.py" in failure.traceback


def test_an_error_without_a_text_is_reported_all_the_same(installed_plugins):
    source = """
        class Mute(Exception):
            def __str__(self):
                raise ValueError
        raise Mute
        """
    installed_plugins.install("acme", source=source)
    assert "Mute" in str(failure_of(installed_plugins, "import"))


def test_keyboard_interrupt_is_the_users(installed_plugins):
    info = installed_plugins.install("acme", source="raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        installed_plugins.load()
    (info / "entry_points.txt").unlink()
    assert list(installed_plugins.load().backends) == ["zeta"]


@pytest.mark.parametrize("value", ["missing_plugin", "acme_plugin:missing", "not a module", ":"])
def test_an_entry_point_that_leads_nowhere(installed_plugins, value):
    installed_plugins.install("acme", entry_points={"acme": value})
    assert repr(value) in str(failure_of(installed_plugins, "import"))


def test_a_plugin_is_a_module_and_not_an_object(installed_plugins):
    installed_plugins.install(
        "acme", entry_points={"acme": "acme_plugin:plugin"}, also="plugin = object()"
    )
    assert "name only the module" in str(failure_of(installed_plugins, "import"))


def test_a_module_inside_a_package_may_be_named_as_an_attribute(installed_plugins):
    installed_plugins.install("acme", entry_points={"acme": "acme_plugin:this"}, also="import sys")
    with (installed_plugins.folder / "acme_plugin.py").open("a") as module:
        module.write("\nthis = sys.modules[__name__]\n")
    assert "acme" in installed_plugins.load().backends


def test_a_plugin_that_asks_for_the_registry_while_it_is_loaded(installed_plugins):
    source = "from kernels_core.plugins import registry\nregistry()"
    installed_plugins.install("acme", source=source)
    assert "must not call kernelize" in str(failure_of(installed_plugins, "import"))


@pytest.mark.parametrize(
    ("also", "says"),
    [
        ("@hookimpl\ndef kernels_match_arch(archs): ...", "did you mean kernels_match_archs"),
        ("@hookimpl\ndef completely_different(): ...", "the hooks are kernels_backend, "),
        ("@hookimpl(specname='kernels_slect')\ndef f(): ...", "did you mean kernels_select"),
        ("def kernels_select(request, candidates): ...", "kernels_select is not a function marked"),
        ("kernels_bundled = None", "kernels_bundled is not a function marked"),
        ("@hookimpl(wrapper=True)\ndef kernels_select(): yield", "is a hook wrapper"),
        ("@hookimpl(hookwrapper=True)\ndef kernels_select(): yield", "is a hook wrapper"),
        ("@hookimpl\ndef kernels_match_archs(archs, device): ...", "device"),
        ("@hookimpl\ndef kernels_match_archs(archs, facts=None): ...", "has a default for 'facts'"),
        (
            "@hookimpl(specname='kernels_detect')\ndef detect(host): ...",
            "kernels_detect is implemented more than once",
        ),
    ],
)
def test_hooks_that_the_core_would_not_call_as_meant(installed_plugins, also, says):
    installed_plugins.install("acme", also=also)
    assert says in str(failure_of(installed_plugins, "register"))


@pytest.mark.parametrize(
    "hook",
    [
        "kernels_backend",
        "kernels_detect",
        "kernels_device_facts",
        "kernels_parse_tag",
        "kernels_match_tag",
    ],
)
def test_a_required_hook_is_missing(installed_plugins, hook):
    installed_plugins.install("acme", **{hook: None})
    assert f"implement {hook} with" in str(failure_of(installed_plugins, "register"))


@pytest.mark.parametrize(
    "also",
    [
        "@hookimpl(tryfirst=True)\ndef kernels_bundled(): return {}",
        "@hookimpl(trylast=True)\ndef kernels_bundled(): return {}",
        "@hookimpl(specname='kernels_bundled')\ndef bundled(): return {}",
        "@hookimpl(optionalhook=True)\ndef kernels_of_a_newer_core(): return {}",
        "def kernels_helper(): ...",
    ],
)
def test_harmless_markings_are_taken(installed_plugins, also):
    installed_plugins.install("acme", also=also)
    assert "acme" in installed_plugins.load().backends


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("raise RuntimeError('no luck')", "no luck"),
        ("raise SystemExit", "SystemExit"),
        ("return None", "must return a BackendInfo, got NoneType"),
        ("return {'name': 'acme'}", "must return a BackendInfo, got dict"),
        ("return BackendInfo", "must return a BackendInfo, got type"),
    ],
)
def test_failing_to_declare(installed_plugins, body, says):
    hook = f"@hookimpl\ndef kernels_backend():\n    {body}"
    installed_plugins.install("acme", kernels_backend=hook)
    assert says in str(failure_of(installed_plugins, "declare"))


@pytest.mark.parametrize(
    ("field", "says"),
    [
        (
            '"api_version": 2',
            "declares API version 2, but this kernels-core supports 1: upgrade kernels-core",
        ),
        (
            '"api_version": 0',
            "declares API version 0, but this kernels-core supports 1: upgrade the plugin",
        ),
        ('"name": 7', "name"),
        ('"name": ""', "lower-case identifier as name, got str: ''"),
        ('"name": "ac-me"', "lower-case identifier as name, got str: 'ac-me'"),
        ('"name": "Acme"', "lower-case identifier as name, got str: 'Acme'"),
        ('"torch_device_type": "acme:0"', "lower-case identifier as torch_device_type"),
        ('"noarch_name": "ac me"', "lower-case identifier as noarch_name"),
        ('"noarch_name": "universal"', "must not declare noarch_name 'universal'"),
        ('"facts": int', "must declare subclasses of DeviceFacts as facts, got type: <class 'int'"),
        ('"facts": Facts(0, "", 1)', "facts"),
        ('"properties": [Cores]', "properties"),
        ('"properties": (Cores, int)', "must declare subclasses of DeviceProperties as properties"),
        ('"properties": (Cores(1),)', "must declare subclasses of DeviceProperties as properties"),
    ],
)
def test_declaring_something_invalid(installed_plugins, field, says):
    installed_plugins.install("acme", kernels_backend=DECLARE % field)
    assert says in str(failure_of(installed_plugins, "declare"))


def test_a_refused_plugin_is_found_under_the_name_it_declared(installed_plugins):
    hook = DECLARE % '"api_version": 2, "name": "mono"'
    installed_plugins.install("acme", kernels_backend=hook)
    registry = installed_plugins.load()
    with pytest.raises(BackendUnavailableError, match="API version") as raised:
        registry.backend_for("mono")
    assert raised.value.__cause__ is registry.failures[0].error


def test_strict_mode_raises_instead(installed_plugins, monkeypatch):
    installed_plugins.install("acme", source="raise RuntimeError('no luck')")
    monkeypatch.setenv("KERNELS_STRICT_PLUGINS", "yes")
    for _ in range(2):
        with pytest.raises(PluginError, match="no luck") as raised:
            installed_plugins.load()
        assert raised.value.phase == "import"
    assert installed_plugins.warnings == []
    monkeypatch.setenv("KERNELS_STRICT_PLUGINS", "no")


def test_warnings_turned_into_errors_leave_a_usable_registry(installed_plugins):
    import warnings

    from kernels_core.plugins import registry

    installed_plugins.install("acme", source="raise RuntimeError('no luck')")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(RuntimeWarning, match="no luck"):
            registry()
        assert list(registry().backends) == ["zeta"]
