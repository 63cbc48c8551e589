"""Acme's accelerator: `plugin` is the backend of kernels-core, `device` the extension of torch."""
