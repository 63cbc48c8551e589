"""Bundles: kernels for a machine that cannot reach the Hub."""
