"""Backend plugins, working and broken ones: their source, and installing them into a folder."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

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


def install_plugin(
    folder: Path,
    name: str,
    *,
    declares: str | None = None,
    source: str | None = None,
    distribution: str | None = None,
    entry_points: dict[str, str] | None = None,
    version: str = "0.1",
    **plugin: Any,
) -> Path:
    """Write the distribution `<name>-kernels` with the module `<name>_plugin`, as pip would.

    The module is a plugin that works and declares the backend `declares`, by default `name`, but
    for what `plugin` changes (see `plugin_source`), unless `source` is given. Returns the folder
    of the distribution's metadata.
    """
    distribution = distribution or f"{name}-kernels"
    text = plugin_source(declares or name, **plugin) if source is None else textwrap.dedent(source)
    (folder / f"{name}_plugin.py").write_text(text, encoding="utf-8")
    info = folder / f"{distribution.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n", encoding="utf-8"
    )
    entry_points = entry_points or {name: f"{name}_plugin"}
    lines = [f"{entry} = {value}" for entry, value in entry_points.items()]
    (info / "entry_points.txt").write_text(
        "\n".join(["[kernels_core.backends]", *lines, ""]), encoding="utf-8"
    )
    return info
