"""Files of native code: what is read of them, and the rules that judge it."""
