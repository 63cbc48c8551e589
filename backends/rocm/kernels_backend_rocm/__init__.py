"""AMD GPUs as a backend of kernels-core: the hooks are in `plugin`."""
