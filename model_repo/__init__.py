"""Models as code: versions of models are signed OCI artifacts, told apart by digest."""
