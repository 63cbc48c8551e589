"""Reading native code."""
