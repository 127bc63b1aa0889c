"""diffjax: generative diffusion in JAX, every method in one small, exact, fast core."""

__version__ = "0.1.0"
