"""Acme's accelerator: `plugin` is the backend of kernels-core, `device` the extension of torch."""


def load_device() -> None:
    """Make acme a device of torch, which calls this at the end of its own import."""
    import kernels_backend_acme.device  # noqa: F401 # importing it registers the device
