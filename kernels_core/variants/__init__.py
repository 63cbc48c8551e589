"""Build variants: the grammar of their names, which of them fit a machine, and which fits best."""
