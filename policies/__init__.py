"""What no object of the estate may lack: rules over plain Kubernetes objects, and the policy pack.

Not part of `components`: what judges a declaration must not be imported by it.
"""
