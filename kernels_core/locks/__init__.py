"""Locks: which commits a project's kernels stand at."""
