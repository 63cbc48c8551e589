"""Functions whose arguments or results differ between Hugging Face `kernels` and kernels-core."""

from __future__ import annotations

import kernels_core.loading.loaded
from kernels_core.api import kernels
from kernels_core.compat.values import (
    LoadedKernel,
    VariantAccepted,
    VariantRejected,
    as_variant,
)


def get_kernel_variants(
    repo_id: str,
    *,
    revision: str | None = None,
    version: int | str | None = None,
    backend: str | None = None,
) -> list[VariantAccepted | VariantRejected]:
    """Decide about every build of a kernel; see `kernels_core.get_kernel_variants`."""
    decisions = kernels.get_kernel_variants(
        repo_id, revision=revision, version=version, backend=backend
    )
    return [as_variant(decision) for decision in decisions]


def get_loaded_kernels() -> list[LoadedKernel]:
    """The kernels that this process has imported, in the order of loading."""
    return [LoadedKernel.of(kernel) for kernel in kernels_core.loading.loaded.get_loaded_kernels()]
