"""From the name of a kernel to an imported module, or to builds downloaded ahead of use."""
