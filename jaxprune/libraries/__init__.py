"""Models of other libraries as pure functions; ``Network.from_nnx`` and ``Network.from_equinox`` call it.

Each module has one function ``parts(model, ...)`` that returns the four parts of a ``Network``: two static functions
that compare by value, and two plain nested dictionaries of arrays.  It imports its library, and nothing else does.
"""
