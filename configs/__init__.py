"""What an operator edits: one file per environment, and the versions of everything."""
