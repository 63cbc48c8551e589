"""The namespace of this build's operators in `torch.ops`."""

# Unique per build, since several builds may be loaded into one process. The suffix is the beginning
# of a SHA-256 of the sources, which a test computes; metadata.json has it as `id`.
NAMESPACE = "_bundled_triton_130e674a"
