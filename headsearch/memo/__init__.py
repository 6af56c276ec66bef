"""The shared store of outputs: bytes, not tensors."""
