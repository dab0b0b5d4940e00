"""The embedded environment: tools, cluster, images, checks and drills of a rehearsal."""
