"""What runs inside Triton: one file, which lies beside each version of a model."""
