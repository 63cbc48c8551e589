"""The names of `kernels` that are about layers."""

from kernels_core.compat.exports import LAYER_NAMES, lazily

__all__ = list(LAYER_NAMES)

__getattr__ = lazily(__name__, LAYER_NAMES)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
