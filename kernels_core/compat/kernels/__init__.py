"""The package `kernels`, as kernels-core answers for it; see `kernels_core.compat`."""

from typing import Any

from kernels_core.compat.activation import reported_version
from kernels_core.compat.exports import NAMES, lazily

__all__ = ["__version__", *NAMES]

_get = lazily(__name__, NAMES)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return reported_version()
    return _get(name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
