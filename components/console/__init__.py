"""The console: the estate behind one REST API, and its pages."""
