"""The mathematics under the methods, as functions: what the methods are held against."""

from diffjax.theory import generator, heat, linear, residuals, straightness, wasserstein_bound

__all__ = ["generator", "heat", "linear", "residuals", "straightness", "wasserstein_bound"]
