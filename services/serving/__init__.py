"""Models from the registry into Triton: the sidecar that brings them, the rollouts' controller."""
