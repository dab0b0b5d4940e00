"""What runs inside the estate and is ours: one package per service, one image each."""
