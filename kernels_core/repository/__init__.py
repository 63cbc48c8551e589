"""Kernel repositories: what is in one, which build to use, and importing it."""
