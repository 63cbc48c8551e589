"""Rules; see `rules`."""
