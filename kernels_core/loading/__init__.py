"""From the name of a kernel to an imported module."""
