"""Dataset versions to Supervisely and back, by its own unmodified SDK."""
