"""Kernel repositories on disk: their builds, which one to use, and importing it."""
