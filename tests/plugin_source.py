"""The source of backend plugins, working and broken ones, for tests that install them."""

from __future__ import annotations

import textwrap

PLUGIN_HEADER = """
import attrs
from kernels_core import DeviceFacts, DeviceProperties, Features, hookimpl
from kernels_core.hookspecs import BackendInfo, BackendTag, Detection, Match


@attrs.frozen
class Facts(DeviceFacts):
    cores: int


@attrs.frozen
class Cores(DeviceProperties):
    minimum: int
"""

PLUGIN_HOOKS = {
    "kernels_backend": """
        @hookimpl
        def kernels_backend():
            return BackendInfo(
                name="{name}",
                api_version={api_version},
                torch_device_type="{torch_device_type}",
                noarch_name="{noarch_name}",
                facts=Facts,
                properties=({properties},),
                priority={priority},
            )
        """,
    "kernels_detect": """
        @hookimpl
        def kernels_detect(host):
            return {detection}
        """,
    "kernels_device_facts": """
        @hookimpl
        def kernels_device_facts(index):
            return Facts(index, "{name} device", cores=8)
        """,
    "kernels_parse_tag": """
        @hookimpl
        def kernels_parse_tag(text):
            return BackendTag("{name}", "{name}") if text == "{name}" else None
        """,
    "kernels_match_tag": """
        @hookimpl
        def kernels_match_tag(tag, detection):
            return Match.yes()
        """,
}


def plugin_source(
    name: str = "acme",
    *,
    torch_device_type: str | None = None,
    noarch_name: str | None = None,
    detection: str = 'Detection(2, runtime_version="1.0")',
    priority: int = 100,
    api_version: int = 1,
    properties: str = "Cores",
    also: str = "",
    **hooks: str | None,
) -> str:
    """The source of a plugin module that works, but for the `hooks` that are replaced or dropped.

    A hook that is given is the source of its whole definition; None leaves the hook out.
    """
    parts = [PLUGIN_HEADER]
    parts += [textwrap.dedent(source) for source in (PLUGIN_HOOKS | hooks).values() if source]
    filled = {
        "{detection}": detection,
        "{name}": name,
        "{torch_device_type}": torch_device_type or name,
        "{noarch_name}": noarch_name or name,
        "{priority}": str(priority),
        "{api_version}": str(api_version),
        "{properties}": properties,
    }
    text = "\n".join([*parts, textwrap.dedent(also)])
    for placeholder, value in filled.items():
        text = text.replace(placeholder, value)
    return text
