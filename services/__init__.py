"""What runs inside the estate and is ours; each service is an image of its own."""
