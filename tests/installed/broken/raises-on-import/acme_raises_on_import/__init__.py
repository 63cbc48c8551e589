"""A backend that cannot be imported."""
