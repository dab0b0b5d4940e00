"""The console: the lake's REST API. Pages come beside it.

`app` puts the routes together, `security` says who may ask them, `backends` has one module for each
system that is asked, `problems` the one form of every error (RFC 9457).
"""
