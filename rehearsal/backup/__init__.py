"""`./estate backup` and `./estate restore`: what services/backup does, done to a rehearsal."""
