"""The facade: when it calls a plugin, what it keeps, and how it handles bad return values."""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback

import pytest

from kernels_core import CUDAProperties, DeviceFacts, Mode, bundled_mapping
from kernels_core.errors import BackendUnavailableError, PluginError, UnknownDeviceError
from kernels_core.hookspecs import BackendTag, Candidate, Detection, Match, SelectionRequest

TAG = BackendTag("acme", "acme")
FACTS = DeviceFacts(0, "a device")
REQUEST = SelectionRequest("RMSNorm", Mode.INFERENCE, FACTS)
CANDIDATES = tuple(Candidate(object(), Mode.FALLBACK, None) for _ in range(3))

# For each hook: its phase, its signature, and how the facade calls it.
CALLS = {
    "kernels_detect": ("detect", "host", lambda b: b.detection()),
    "kernels_device_facts": ("facts", "index", lambda b: b.device_facts(0)),
    "kernels_parse_tag": ("parse_tag", "text", lambda b: b.parse_tag("acme")),
    "kernels_match_tag": ("match_tag", "tag, detection", lambda b: b.match_tag(TAG)),
    "kernels_match_device": (
        "match_device",
        "required, facts",
        lambda b: b.match_device(cores(b, 1), FACTS),
    ),
    "kernels_match_archs": ("match_archs", "archs, facts", lambda b: b.match_archs(["a"], FACTS)),
    "kernels_select": (
        "select",
        "request, candidates",
        lambda b: b.select(REQUEST, CANDIDATES),
    ),
    "kernels_bundled": ("bundled", "", lambda b: b.bundled()),
}
MATCH = "must return a Match, got"
GARBAGE = [
    ("kernels_detect", "None", "must return a Detection, got NoneType: None"),
    ("kernels_detect", "True", "must return a Detection, got bool"),
    ("kernels_detect", "Detection", "must return a Detection, got type"),
    ("kernels_detect", "Detection(1, reason='why')", "ValueError"),
    ("kernels_device_facts", "DeviceFacts(0, 'x')", "must return a Facts, got DeviceFacts"),
    ("kernels_device_facts", "Facts(1, 'x', 8)", "must describe acme_torch:0, got Facts"),
    ("kernels_device_facts", "None", "must return a Facts, got NoneType"),
    ("kernels_parse_tag", "'acme'", "must return a BackendTag or None, got str"),
    ("kernels_parse_tag", "False", "must return a BackendTag or None, got bool"),
    ("kernels_parse_tag", "BackendTag('zeta', 'acme')", "must return a tag of backend 'acme'"),
    ("kernels_parse_tag", "BackendTag('acme', 'ac')", "a tag whose text is 'acme', or None"),
    ("kernels_parse_tag", "BackendTag('acme', 'ac', ('me',))", "consists of integers"),
    ("kernels_match_tag", "None", MATCH),
    ("kernels_match_tag", "True", MATCH),
    ("kernels_match_device", "None", MATCH),
    ("kernels_match_device", "(True, 1)", MATCH),
    ("kernels_match_archs", "None", MATCH),
    ("kernels_match_archs", "'yes'", MATCH),
    ("kernels_match_archs", "Match.yes('best')", "TypeError"),
    ("kernels_select", "candidates[:2]", "must return the given candidates"),
    ("kernels_select", "[*candidates, candidates[0]]", "must return the given candidates"),
    ("kernels_select", "[candidates[0]] * 3", "must return the given candidates"),
    ("kernels_select", "iter(candidates)", "must return the given candidates"),
    ("kernels_select", "7", "must return the given candidates"),
    ("kernels_select", "'abc'", "must return the given candidates"),
    ("kernels_bundled", "None", "must return a mapping of layer names"),
    ("kernels_bundled", "[('RMSNorm', {})]", "must return a mapping of layer names"),
    ("kernels_bundled", "{'RMSNorm': object()}", "must return a mapping of layer names"),
    ("kernels_bundled", "{1: {}}", "must return a mapping of layer names"),
    ("kernels_bundled", "{'RMSNorm': {'zeta': 0}}", "for its own device type 'acme' only"),
]


def cores(backend, minimum):
    """A requirement of the plugin's own kind."""
    (kind,) = backend.info.properties
    return kind(minimum)


def hook_source(hook: str, body: str) -> str:
    return f"@hookimpl\ndef {hook}({CALLS[hook][1]}):\n    {body}"


def failing_call(installed_plugins, backend, hook: str) -> PluginError:
    """What a call raises. It is recorded and warned of, once for any number of calls."""
    phase, _, call = CALLS[hook]
    errors = []
    for _ in range(2):
        with pytest.raises(PluginError) as raised:
            installed_plugins.watch(call, backend)
        errors.append(raised.value)
    error = errors[0]
    (failure,) = installed_plugins.load().failures
    (warning,) = installed_plugins.warnings
    assert (failure.plugin, failure.distribution, failure.phase) == (
        "acme",
        "acme-kernels 0.1",
        phase,
    )
    # Kept without its frames, which would keep the variables of the callers alive.
    assert type(failure.error) is type(error)
    assert str(failure.error) == str(error)
    assert failure.error.__traceback__ is None
    assert str(error) in warning
    assert str(error) in failure.traceback
    assert (error.plugin, error.distribution, error.phase) == ("acme", "acme-kernels 0.1", phase)
    assert (error.backend, error.torch_device_type) == ("acme", "acme_torch")
    for text in (hook, "'acme'", "acme-kernels 0.1"):
        assert text in str(error)
    return error


@pytest.mark.parametrize(("hook", "answer", "says"), GARBAGE)
def test_garbage_is_refused_at_the_boundary(installed_plugins, hook, answer, says):
    source = hook_source(hook, f"return {answer}")
    backend = installed_plugins.backend(torch_device_type="acme_torch", **{hook: source})
    assert says in str(failing_call(installed_plugins, backend, hook))


@pytest.mark.parametrize("hook", CALLS)
@pytest.mark.parametrize("cause", [ZeroDivisionError, SystemExit, PluginError])
def test_what_a_hook_raises_is_chained(installed_plugins, hook, cause):
    backend = installed_plugins.backend(
        torch_device_type="acme_torch",
        also="from kernels_core.errors import PluginError",
        **{hook: hook_source(hook, f"raise {cause.__name__}('boom')")},
    )
    error = failing_call(installed_plugins, backend, hook)
    assert type(error.__cause__) is cause
    assert "boom" in str(error)


@pytest.mark.parametrize("hook", CALLS)
def test_keyboard_interrupt_in_a_hook_is_the_users(installed_plugins, hook):
    source = hook_source(hook, "raise KeyboardInterrupt")
    backend = installed_plugins.backend(**{hook: source})
    with pytest.raises(KeyboardInterrupt):
        CALLS[hook][2](backend)


@pytest.mark.parametrize(
    ("hook", "definition", "result"),
    [
        ("kernels_match_tag", "tag, detection", (TAG, Detection(2, "1.0"))),
        ("kernels_match_tag", "detection, tag", (Detection(2, "1.0"), TAG)),
        ("kernels_match_tag", "tag", (TAG,)),
        ("kernels_match_tag", "detection", (Detection(2, "1.0"),)),
        ("kernels_match_tag", "", ()),
        ("kernels_match_tag", "tag, own=3", (TAG, 3)),
        ("kernels_match_archs", "facts", (FACTS,)),
        ("kernels_match_archs", "facts, archs", (FACTS, ["a"])),
    ],
)
def test_a_hook_takes_the_arguments_it_names(installed_plugins, hook, definition, result):
    source = f"""
        received = []

        @hookimpl
        def {hook}({definition}):
            received.append(tuple(locals().values()))
            return Match.yes()
        """
    backend = installed_plugins.backend(**{hook: source})
    assert CALLS[hook][2](backend) == Match.yes()
    assert sys.modules["acme_plugin"].received == [result]


def test_defaults_of_optional_hooks(installed_plugins):
    backend = installed_plugins.backend()
    assert backend.match_archs(["anything"], FACTS) == Match.yes()
    assert backend.select(REQUEST, list(CANDIDATES)) == CANDIDATES
    assert backend.bundled() == {}
    assert backend.match_device(None, FACTS) == Match.yes()
    assert "does not support Cores" in backend.match_device(cores(backend, 1), FACTS).reason


def test_only_declared_kinds_of_requirement_reach_the_plugin(installed_plugins):
    source = hook_source("kernels_match_device", "return Match.yes(required.minimum)")
    backend = installed_plugins.backend(kernels_match_device=source)
    assert backend.match_device(cores(backend, 7), FACTS) == Match.yes(7)
    assert backend.match_device(None, FACTS) == Match.yes()
    reason = backend.match_device(CUDAProperties(70, 90), FACTS).reason
    assert reason == "backend 'acme' does not support CUDAProperties"


def test_tags_of_another_backend_do_not_reach_the_plugin(installed_plugins):
    backend = installed_plugins.backend()
    match = backend.match_tag(BackendTag("cuda", "cu", (13, 0)))
    assert (match.fits, match.reason) == (False, "it is built for backend 'cuda', not 'acme'")


def test_a_plugin_that_fails_to_bundle_does_not_keep_the_others_from_it(
    installed_plugins, monkeypatch
):
    installed_plugins.install("acme", kernels_bundled=hook_source("kernels_bundled", "return 7"))
    source = hook_source("kernels_bundled", "return {'RMSNorm': {'zeta': 'a repository'}}")
    installed_plugins.install("zeta", kernels_bundled=source)
    for _ in range(2):
        mapping = installed_plugins.watch(bundled_mapping)
        assert mapping == {"RMSNorm": {"zeta": "a repository"}}
    (warning,) = installed_plugins.warnings
    assert "'acme' of acme-kernels 0.1 failed (bundled)" in warning
    monkeypatch.setenv("KERNELS_STRICT_PLUGINS", "1")
    with pytest.raises(PluginError, match="kernels_bundled"):
        bundled_mapping()


def test_select_may_reorder(installed_plugins):
    source = hook_source("kernels_select", "return candidates[::-1]")
    backend = installed_plugins.backend(kernels_select=source)
    assert backend.select(REQUEST, CANDIDATES) == CANDIDATES[::-1]
    assert backend.select(REQUEST, []) == ()


def test_select_may_have_no_opinion(installed_plugins):
    source = hook_source("kernels_select", "return None")
    backend = installed_plugins.backend(kernels_select=source)
    assert backend.select(REQUEST, CANDIDATES) == CANDIDATES


COUNTED = """
    calls = []

    @hookimpl
    def kernels_detect(host):
        calls.append(host)
        return {detection}

    @hookimpl
    def kernels_device_facts(index):
        calls.append(index)
        return Facts(index, "a device", 8)
    """


def test_the_machine_is_asked_once(installed_plugins):
    backend = installed_plugins.backend(kernels_detect=COUNTED, kernels_device_facts=None)
    calls = sys.modules["acme_plugin"].calls
    assert calls == []
    assert backend.detection() is backend.detection()
    assert [host.os for host in calls] == [{"win32": "windows"}.get(sys.platform, sys.platform)]
    assert backend.device_facts(1) is backend.device_facts(1)
    assert backend.device_facts(0) is backend.device_facts(0)
    assert calls[1:] == [1, 0]


def test_a_failed_detection_is_kept(installed_plugins):
    backend = installed_plugins.backend(
        kernels_detect=COUNTED, kernels_device_facts=None, detection="1 / 0"
    )
    errors = [failing_detection(backend) for _ in range(3)]
    assert len(sys.modules["acme_plugin"].calls) == 1
    assert len({str(error) for error in errors}) == 1
    # Raising it again and again must not make its traceback grow, which is kept as text.
    assert len(traceback.extract_tb(errors[2].__traceback__)) == 2
    assert isinstance(errors[0].__cause__, ZeroDivisionError)
    assert "ZeroDivisionError" in str(errors[2].__cause__)
    with pytest.raises(PluginError, match="kernels_detect"):
        backend.device_facts(0)
    with pytest.raises(PluginError, match="kernels_detect"):
        backend.match_tag(TAG)


def failing_detection(backend) -> PluginError:
    try:
        backend.detection()
    except PluginError as error:
        return error
    raise AssertionError("detection did not fail")


@pytest.mark.parametrize("index", [2, -1])
def test_a_device_index_that_does_not_exist(installed_plugins, index):
    backend = installed_plugins.backend(torch_device_type="acme_torch")
    with pytest.raises(UnknownDeviceError, match="backend 'acme' found 2") as raised:
        backend.device_facts(index)
    assert raised.value.device == f"acme_torch:{index}"


def test_no_device_has_no_facts(installed_plugins):
    backend = installed_plugins.backend(detection="Detection(0, reason='no driver')")
    with pytest.raises(BackendUnavailableError, match="no driver"):
        backend.device_facts(0)


SLOW = """
    import threading, time
    calls, entered = [], threading.Event()
    seconds = {seconds}

    @hookimpl
    def kernels_detect(host):
        calls.append("detect")
        entered.set()
        time.sleep(seconds)
        return Detection(2)

    @hookimpl
    def kernels_device_facts(index):
        calls.append("facts")
        time.sleep(seconds)
        return Facts(index, "a device", 8)
    """


def test_threads_share_one_answer(installed_plugins):
    source = SLOW.replace("{seconds}", "0.05")
    backend = installed_plugins.backend(kernels_detect=source, kernels_device_facts=None)
    barrier = threading.Barrier(8)
    answers = []

    def ask():
        barrier.wait()
        answers.append((backend.detection(), backend.device_facts(0)))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sys.modules["acme_plugin"].calls == ["detect", "facts"]
    assert len(answers) == 8
    assert len({(id(detection), id(facts)) for detection, facts in answers}) == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform cannot fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_fork_during_detection_leaves_no_lock_behind(installed_plugins):
    source = SLOW.replace("{seconds}", "1")
    backend = installed_plugins.backend(kernels_detect=source, kernels_device_facts=None)
    plugin = sys.modules["acme_plugin"]
    thread = threading.Thread(target=backend.detection)
    thread.start()
    plugin.entered.wait()
    child = os.fork()
    if child == 0:
        # The alarm ends this process if it waits for a lock that no thread holds any more.
        signal.alarm(10)
        plugin.seconds = 0
        os._exit(0 if backend.detection().device_count == 2 else 1)
    _, status = os.waitpid(child, 0)
    thread.join()
    assert os.waitstatus_to_exitcode(status) == 0
