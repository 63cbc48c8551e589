"""Whether the Python packages that a build depends on are installed."""

from __future__ import annotations

import shlex
from collections.abc import Iterable

from kernels_core.errors import DependencyError
from kernels_core.host import find_module, installed_version
from kernels_core.repository.metadata import Metadata

# Names that kernels declare for packages that are distributed under another one.
_DISTRIBUTIONS = {"onednn": "onednn-devel", "tvm-ffi": "apache-tvm-ffi"}


def check_dependencies(metadata: Metadata, *, repository: str) -> None:
    """Raise a DependencyError when Python packages that a build needs are not installed."""
    if not metadata.python_depends:
        return
    missing = tuple(_missing_packages(metadata.python_depends))
    if missing:
        what = "Python packages that are" if len(missing) > 1 else "a Python package that is"
        raise DependencyError(
            f"The kernel in {repository} needs {what} not installed. To install: "
            f"pip install {shlex.join(missing)}",
            repository=repository,
            missing=missing,
        )


def _missing_packages(requirements: Iterable[str]) -> Iterable[str]:
    # Takes 5 ms, and most kernels need no packages.
    from packaging.requirements import Requirement

    for text in requirements:
        requirement = Requirement(text)
        distribution = _DISTRIBUTIONS.get(requirement.name.lower(), requirement.name)
        version = installed_version(distribution)
        if version is not None:
            found = requirement.specifier.contains(version, prereleases=True)
        else:
            # What is importable without being installed (a checkout on the path, a package under
            # another name) counts as well, but its version is not known.
            found = not requirement.specifier and _importable(requirement.name)
        if not found:
            yield f"{distribution}{requirement.specifier}"


def _importable(name: str) -> bool:
    module = name.replace("-", "_")
    # A dotted name would import its parents.
    return module.isidentifier() and find_module(module) is not None
