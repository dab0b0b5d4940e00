"""What no object of the estate may lack: rules over plain Kubernetes objects, and the policy pack.

Not part of `components`: what judges a declaration is beside it. They take the name of a waiver's
annotation from here, and nothing else.
"""
