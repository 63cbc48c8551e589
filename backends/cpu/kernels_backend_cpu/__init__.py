"""The host's processor as a backend of kernels-core: the hooks are in `plugin`."""
