"""Locks: which commit of each kernel a project uses."""
