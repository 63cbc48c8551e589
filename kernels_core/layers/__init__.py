"""Extensible layers, mappings, and `kernelize`."""
