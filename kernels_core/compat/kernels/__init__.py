"""The package `kernels`, as kernels-core answers for it; see `kernels_core.compat`."""

from typing import Any

from kernels_core.compat.exports import NAMES, lazily

__all__ = ["__version__", *NAMES]

_get = lazily(__name__, NAMES)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("kernels")
    return _get(name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
