"""What a model says of the probability of data."""

from diffjax.likelihood.elbo import Bound, elbo

__all__ = ["Bound", "elbo"]
