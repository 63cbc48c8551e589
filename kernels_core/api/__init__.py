"""The public entries, which compose the packages below.

They are in a package of their own because a submodule `kernels_core.plan` would, once imported,
hide the function of that name; so would `kernels_core.kernelize`.
"""
