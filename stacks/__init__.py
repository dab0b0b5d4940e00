"""The Pulumi program: one module per layer, composed in `stacks.estate`."""
