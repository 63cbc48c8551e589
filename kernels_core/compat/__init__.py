"""Providing the package `kernels`: programs for Hugging Face `kernels` run on kernels-core.

    import kernels_core.compat

    kernels_core.compat.activate()  # before transformers and others are imported

The folder `kernels` beside this file is the package that such programs then import.
"""

from kernels_core.compat.activation import activate as activate
from kernels_core.compat.activation import deactivate as deactivate
