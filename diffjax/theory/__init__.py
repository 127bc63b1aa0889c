"""The mathematics under the methods, as functions: what the methods are held against."""

from diffjax.theory import doob, generator, heat, linear, residuals, wasserstein_bound

__all__ = ["doob", "generator", "heat", "linear", "residuals", "wasserstein_bound"]
