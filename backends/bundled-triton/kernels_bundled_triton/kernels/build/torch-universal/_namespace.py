"""The namespace of this build's operators in `torch.ops`."""

# Unique per build, since several builds may be loaded into one process. The suffix is the beginning
# of a SHA-256 over the sources, which a test computes; it is the `id` in metadata.json, too.
NAMESPACE = "_bundled_triton_a4bb0e0b"
