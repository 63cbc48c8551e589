"""Fails the way plugins do that load a native library when they are imported."""

raise OSError("libacme.so.1: cannot open shared object file")
