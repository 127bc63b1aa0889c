"""train, sample, eval, show: each a module with `run(config, workdir, ...)`, callable from Python.

The only layer that knows configs: here specs become objects, and the library below takes values.
"""
