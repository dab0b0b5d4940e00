"""Delivery of models to Triton: pulled, checked, loaded, and replaced in steps."""
