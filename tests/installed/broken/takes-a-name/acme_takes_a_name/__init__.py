"""A backend that declares the name of another."""
