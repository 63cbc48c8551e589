"""Loading kernels: from a repository to an imported module.

Repositories of the Hub are named by strings such as "org/name", directories by `pathlib.Path`.
"""

from kernels_core.loading.hub import get_kernel as get_kernel
from kernels_core.loading.hub import get_kernel_variants as get_kernel_variants
from kernels_core.loading.hub import get_locked_kernel as get_locked_kernel
from kernels_core.loading.hub import has_kernel as has_kernel
from kernels_core.loading.hub import install_kernel as install_kernel
from kernels_core.loading.hub import load_kernel as load_kernel
from kernels_core.loading.loaded import LoadedKernel as LoadedKernel
from kernels_core.loading.loaded import get_kernel_dep as get_kernel_dep
from kernels_core.loading.loaded import get_loaded_kernels as get_loaded_kernels
from kernels_core.loading.loaded import load_build as load_build
from kernels_core.loading.local import get_local_kernel as get_local_kernel
from kernels_core.loading.local import resolve_local as resolve_local
