"""The registry that holds versions of models: OCI artifacts, one user who writes, one who reads."""
