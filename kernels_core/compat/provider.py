"""Which package `import kernels` imports here, with which version, and why."""

from __future__ import annotations

import attrs

from kernels_core.compat import activation
from kernels_core.compat.version import decide
from kernels_core.host import installed_distributions


@attrs.frozen
class Provider:
    """The package that `import kernels` imports.

    Attributes:
        name: "nothing", "Hugging Face kernels", "kernels-core" while it is active in this process,
            or "the wheel of kernels-core".
        version: the version that programs see; None if there is no such package.
        note: why it is that version, or what `kernels_core.compat.activate()` would change.
        problem: what is wrong and how to fix it; "" when nothing is.
    """

    name: str
    version: str | None
    note: str
    problem: str = ""


def provider() -> Provider:
    """Find out, without importing `kernels`.

    Raises:
        EnvironmentVariableError: `KERNELS_COMPAT_VERSION` is not a version.

    Example:
        >>> provider().problem
        ''
    """
    answer = decide()
    if activation.is_active():
        return Provider("kernels-core", activation.reported_version(), answer.reason)
    distributions = list(installed_distributions(activation.NAME))
    installed = sorted({(found.version, str(found.locate_file(""))) for found in distributions})
    if not installed:
        note = f"kernels_core.compat.activate() reports version {answer.version}: "
        return Provider("nothing", None, note + answer.reason)
    version = distributions[0].version
    ours = version.endswith(f"+{activation.LOCAL}")
    name = "the wheel of kernels-core" if ours else "Hugging Face kernels"
    note = "ordinary files" if ours else "kernels_core.compat.activate() replaces it"
    return Provider(name, version, note, _several(installed))


def _several(installed: list[tuple[str, str]]) -> str:
    if len(installed) == 1:
        return ""
    found = " and ".join(f"{version} in {folder}" for version, folder in installed)
    return (
        f"Several distributions named {activation.NAME!r} are installed, and one shadows the "
        f"others: {found}. Uninstall all but one."
    )
