"""A denoiser that is the gradient of an energy, so that every sampler serves it, and Metropolis steps know what to do.

With p_t ~ exp(-E(x, t)) the score is -grad E, so that (kexue 7038; Salimans & Ho 2021)

    E[x_0 | x_t = x] = (x - sigma^2 grad E(x, t)) / alpha,    eps = sigma grad E.

A network of two maps, `models.scalar.gradient`, predicts that noise, F = de/dx_in at x_in = c_in x with c_in =
1 / sqrt(alpha^2 sigma_data^2 + sigma^2), and says e itself in every entry of the second map:

    E(x, t) = e(c_in x, log-SNR) / (c_in sigma).

E is -log p_t up to a number that no one knows, another one at every t: differences at one t mean something, others do
not. What has an energy has two methods beside a denoiser's: `energy(x, t)`, a scalar, and `energy_gradient(x, t)`, the
pair (E, grad E) of one evaluation; `analytic.ExactDenoiser` has them with the true constant.
"""

from typing import Any

import jax.numpy as jnp

from diffjax import calculus
from diffjax.chains import Chain
from diffjax.denoisers.targets import Eps, NetworkDenoiser, Target, denoiser, split_maps
from diffjax.types import Array, Network, Schedule, pytree

NONE = (
    "a network that is no gradient has none: train one that is (model.name=scalar.energy, loss.name=energy, "
    "denoiser.name=energy), compose such (denoisers.composition), or take analytic's"
)


@pytree
class EnergyDenoiser(NetworkDenoiser):
    """A network's denoiser that knows its energy; `energy` makes one.

    Attributes:
        net: (x_in, c) -> two maps of x's shape, F and e.
        schedule, target: as of `NetworkDenoiser`.
    """

    def energy(self, x: Array, t: Any) -> Array:
        """Computes E(x, t) in nats, a scalar, up to a number that depends on t; infinite where sigma = 0."""
        return self.energy_gradient(x, t)[0]

    def energy_gradient(self, x: Array, t: Any) -> tuple[Array, Array]:
        """Computes (E, grad E) at (x, t): a scalar in nats, and x's shape; one evaluation of the network.

        Raises:
            ValueError: for a network of one map, which says no energy.
        """
        alpha, sigma = self.schedule(t)
        F, e = split_maps(self.predict(x, t), x, 2)[:2]
        width = jnp.hypot(sigma, alpha * self.target.sigma_data)  # 1 / c_in
        return jnp.ravel(e)[0] * width / sigma, F / sigma  # (energy.2)


def energy(net: Network, schedule: Schedule, target: Target, chain: Chain | None = None) -> EnergyDenoiser:
    """Makes the denoiser of an energy's network, trained by `losses.energy`; as configs name it.

    Args:
        net: (x_in, c) -> two maps, F and e.
        chain: is not read.

    Raises:
        ValueError: for another target than Eps, a schedule per frequency, or a process that is not Gaussian.
    """
    calculus.need_scalar(schedule, "An energy")
    calculus.need_gaussian(schedule, "The gradient of an energy is a score", "take denoiser.name=mean")
    if not isinstance(target, Eps):
        raise ValueError(
            f"The gradient of an energy predicts the noise, but the target is {type(target).__name__}; set "
            "target.name=Eps."
        )
    made = denoiser(net, schedule, target)
    return EnergyDenoiser(made.net, made.schedule, made.target)


vars(energy)["of_energies"] = True  # `methods.kinds` asks whether the network is one


def need(model: Any, what: str) -> None:
    """Refuses a denoiser that knows no energy.

    Args:
        what: the beginning of the message: what needs one.

    Raises:
        ValueError: naming what has an energy.
    """
    if not hasattr(model, "energy_gradient"):
        inner = getattr(model, "denoise", model)
        raise ValueError(f"{what} an energy, but {type(inner).__name__} knows none; {NONE}.")
