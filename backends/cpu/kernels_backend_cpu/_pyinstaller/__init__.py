"""What PyInstaller needs to know to freeze programs that use this package."""

from __future__ import annotations

import os


def hook_dirs() -> list[str]:
    """Where the hooks are; PyInstaller finds this function by its entry point."""
    return [os.path.dirname(__file__)]
