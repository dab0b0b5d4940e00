"""Inference: the models that are served, and Triton that serves them."""
