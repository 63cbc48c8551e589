"""The package `kernels`, as kernels-core answers for it; see `kernels_core.compat`."""

from importlib.metadata import version
from typing import Any

from kernels_core.compat.activation import reported_version
from kernels_core.compat.exports import NAMES, lazily

__all__ = ["__version__", *NAMES]

_get = lazily(__name__, NAMES)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        # Under its other name, which kernels import, no distribution may be installed.
        return version("kernels") if __name__ == "kernels" else reported_version()
    return _get(name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
