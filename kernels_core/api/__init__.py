"""The public entries, which compose the packages below."""
