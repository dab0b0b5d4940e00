"""The systems of the estate: one file or folder each, declared as Pulumi components."""
