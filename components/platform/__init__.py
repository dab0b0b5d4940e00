"""What every other layer stands on: namespaces, certificates, trust."""
