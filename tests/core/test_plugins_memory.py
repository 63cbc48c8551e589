"""A plugin that fails keeps nothing of its callers alive, such as the model that they hold."""

from __future__ import annotations

import gc
import weakref

import pytest

from kernels_core.errors import KernelsError
from kernels_core.plugins import reset

BOTH_PARSE = """
    @hookimpl
    def kernels_parse_tag(text):
        return BackendTag("{name}", "shared") if text == "shared" else None
"""


def failing(hook: str, arguments: str) -> str:
    return f"@hookimpl\ndef {hook}({arguments}):\n    raise RuntimeError('boom')"


PLUGINS = {
    "import": [("acme", {"source": "raise RuntimeError('boom')"})],
    "register": [("acme", {"kernels_detect": None})],
    "declare": [("acme", {"kernels_backend": failing("kernels_backend", "")})],
    "detect": [("acme", {"detection": "1 / 0"})],
    "wrong answer": [("acme", {"detection": "5"})],
    "facts": [("acme", {"kernels_device_facts": failing("kernels_device_facts", "index")})],
    "parse_tag": [("acme", {"kernels_parse_tag": failing("kernels_parse_tag", "text")})],
    "bundled": [("acme", {"also": failing("kernels_bundled", "")})],
    "same name": [("acme", {}), ("zeta", {"declares": "acme"})],
    "same tag": [(name, {"kernels_parse_tag": BOTH_PARSE}) for name in ("acme", "zeta")],
}


class Model:
    """Stands for what a caller has in a variable."""


def use(installed_plugins, model: Model) -> int:
    """Use the backend as `kernelize` and `get_kernel` do; how many calls failed."""
    calls = (
        lambda registry: registry.backend("acme").device_facts(0),
        lambda registry: registry.backend_for("acme").detection(),
        lambda registry: registry.parse_tag("shared"),
        lambda registry: registry.backend("acme").parse_tag("acme"),
        lambda registry: registry.backend("acme").bundled(),
        lambda registry: registry.default_backend(),
    )
    failed = 0
    for call in calls:
        try:
            installed_plugins.watch(lambda call=call: call(installed_plugins.load()))
        except KernelsError:
            failed += 1
    return failed


@pytest.mark.parametrize("plugins", PLUGINS.values(), ids=PLUGINS)
def test_a_failure_keeps_no_caller_alive(installed_plugins, plugins):
    for name, plugin in plugins:
        installed_plugins.install(name, **plugin)
    reset()
    gone = []
    for _ in range(2):  # the second finds what the first one recorded
        model = Model()
        assert use(installed_plugins, model)
        gone.append(weakref.ref(model))
        del model
    gc.collect()
    assert [reference() for reference in gone] == [None, None]
    for failure in installed_plugins.load().failures:
        assert failure.plugin in failure.traceback
