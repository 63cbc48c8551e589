"""Getting kernels ahead of use: gathering, bundles and their archives."""
