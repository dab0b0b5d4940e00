"""Models from the registry into Triton: the sidecar that brings them, the controller of rollouts."""
