"""The target of consistency models: a network behind EDM's preconditioning, the identity at the least noise.

    f(x, s) = c_skip(s) x + c_out(s) F,    c_skip = d^2 / ((s - e)^2 + d^2),    c_out = d (s - e) / sqrt(s^2 + d^2)

(Song et al. 2023, appendix C), s = sigma / alpha the noise level, d the data's standard deviation, e the least level:
f(x, e) = x. f(x_s, s) is where the flow from x_s ends, no mean of x_0, though the formulas of a target hold: one step
of DDIM from the noisiest level gives f, and `ancestral.resampled` is the paper's algorithm 1 (which adds noise of
variance s^2 - e^2 where this adds s^2). Samplers that take f for E[x_0 | x_s] in several steps have no sense.
"""

from typing import Any

import jax.numpy as jnp

from diffjax.denoisers.targets import Prediction
from diffjax.types import Schedule, pytree


@pytree
class Consistency(Prediction):
    """The target of a consistency model.

    Attributes:
        sigma_data: standard deviation of the data, in units of x_0.
        least: the noise level, sigma / alpha, at which f is the identity; below it f is that, too.
    """

    sigma_data: float = 0.5
    least: float = 0.002

    def __call__(self, schedule: Schedule, t: Any) -> tuple[Any, Any]:
        """Computes (a, b) = ((1 - c_skip) / c_out, -c_skip s / c_out); b is infinite at the least level."""
        level, past, total = self._levels(schedule, t)
        spread = total / (self.sigma_data * (past**2 + self.sigma_data**2))
        return past * spread, -(self.sigma_data**2) * level * spread / past

    def skip_out(self, schedule: Schedule, t: Any) -> tuple[Any, Any]:
        """Computes (c_skip / alpha, c_out), finite everywhere."""
        alpha, _ = schedule(t)
        _, past, total = self._levels(schedule, t)
        skip = self.sigma_data**2 / (past**2 + self.sigma_data**2)
        return skip / alpha, self.sigma_data * past / total  # (pretrained.3)

    def _levels(self, schedule: Schedule, t: Any) -> tuple[Any, Any, Any]:
        """The noise level, what it is above the least, and the standard deviation of x / alpha."""
        alpha, sigma = schedule(t)
        level = sigma / alpha
        return level, jnp.maximum(level - self.least, 0.0), jnp.hypot(level, self.sigma_data)
