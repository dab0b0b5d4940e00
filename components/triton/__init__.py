"""Triton Inference Server, its rollouts and the gateway before it."""
