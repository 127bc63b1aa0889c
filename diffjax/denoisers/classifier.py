"""log p(y | x_t) of a network that knows the noise: the potential of classifier guidance, and the loss that trains it.

Dhariwal & Nichol 2021, section 4.1: cross-entropy at noised examples, all times alike.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from diffjax.calculus import log_snr
from diffjax.types import Array, Process, Schedule, pytree


@pytree
class Classifier:
    """A classifier (x_t, t) -> log p(label | x_t), a scalar; its schedule lets denoisers for another one refuse it.

    Attributes:
        net: (x_in, c) -> logits (classes,), a `jax.tree_util.Partial` over its parameters; c is the log-SNR.
        schedule: what x_t and t refer to.
        label: an integer scalar.
        sigma_data: standard deviation of the data, in units of x_0: the network sees x_t at unit variance.
    """

    net: Callable[[Array, Array], Array]
    schedule: Schedule
    label: Any
    sigma_data: float = 1.0

    def __call__(self, x: Array, t: Any) -> Array:
        """Computes log p(label | x_t = x), a scalar."""
        return jax.nn.log_softmax(self.logits(x, t))[self.label]

    def logits(self, x: Array, t: Any) -> Array:
        """Computes the logits (classes,) of x_t = x."""
        alpha, sigma = self.schedule(t)
        # (classifier-guidance.4)
        return self.net(x / jnp.hypot(sigma, alpha * self.sigma_data), log_snr(self.schedule, t))


def cross_entropy(classifier: Classifier, process: Process, x0: Array, z: Array, t: Any) -> Array:
    """Computes -log p(label | x_t) of one example, whose label the classifier holds: a scalar, in nats."""
    return -classifier(process.corrupt(x0, z, t), t)
