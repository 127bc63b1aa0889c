"""Schroedinger bridges: the process nearest to a reference that leads from one data set to another.

The reference R is the SDE of a base schedule, R(x_T | x_0) = N(alpha_T x_0, sigma_T^2). Given two laws p of x_0 and q
of x_T, Schroedinger (1931; 1932) asks for the path law

    P* = argmin KL(P | R)    over P with x_0 ~ p, x_T ~ q.

KL(P | R) is that of the couplings of (x_0, x_T) and the mean of that of the bridges between them. So P* has the bridges
of R, and its coupling pi solves the static problem, entropic optimal transport with the entropy sigma_T^2,

    pi* = argmin E_pi[|y - alpha_T x|^2 / 2] + sigma_T^2 KL(pi | p x q),    pi* = f(x) R(y | x) g(y).

Of path laws with bridges of R (the reciprocal class) and these two end laws P* alone is Markov. Iterative Markovian
fitting (Shi et al. 2023, arXiv:2303.16852, section 3; Peluchetti 2023) goes there by turns, each a projection by KL,
KL(. | P*) falling:

    reciprocal    keep the coupling, replace what is between by the bridges of R: x_t = A_t y + B_t x_0 + C_t z
    Markovian     keep the marginals, replace the process by the SDE whose drift is the bridges' mean drift at x_t

In reversed time a bridge's drift is f x - g^2 (alpha_t x_0 - x_t) / sigma_t^2, y does not occur; so the drift's mean is

    f x - g^2 (alpha_t m - x) / sigma_t^2,    m(x, t) = E[x_0 | x_t = x],

and the Markovian projection is `processes.bridge` with a network that is not shown y. Its exact step, given x_0, is
DDPM's on the base schedule, and in u = x_t - A_t y DDPM's on (B, C): `ancestral.ddpm` from the `pinned` grid. A walk
that keeps part of its noise (eta < 1) keeps part of y, which m does not know: those samplers refuse, and the flow too.

This is one half, from q to p. The other half is the same with the two data sets exchanged: with alpha = 1 (`EDM`, whose
time is sigma: Brownian motion, sigma_T^2 the variance of its end) a reversed bridge is a bridge. A run of one half
makes the pairs (x_0 of its walk, y of the data) on which the other half is trained, and so on
(`experiments/schroedinger/pairs.py`): that is DSBM. Where the pairs are R's own, y = alpha_T x_0 + sigma_T z
(`from_noise`), the Markovian projection is R itself, the ordinary diffusion, which is also how iterative proportional
fitting begins (De Bortoli et al. 2021, arXiv:2106.01357). `theory.schroedinger` has all of this in closed form.
"""

from diffjax.calculus import SDEOnly
from diffjax.processes.bridge import Bridge, BridgeSchedule, bridge, check_pinned
from diffjax.types import Array, Schedule, pytree


@pytree
class MarkovSchedule(SDEOnly, BridgeSchedule):
    """(B, C) of a base schedule pinned at its t_max, for denoisers that do not know the endpoint."""


@pytree
class Schroedinger(Bridge):
    """The Markovian projection of bridges between pairs (x_0, y); make one with `schroedinger`."""

    schedule: MarkovSchedule

    def __post_init__(self) -> None:
        """Raises a ValueError for a base schedule, or a bridge's, in the place of the projection's own."""
        check_pinned(self.schedule, MarkovSchedule, "processes.schroedinger")

    @property
    def hidden(self) -> tuple[str, ...]:
        """("y",): the drift is a function of x_t alone."""
        return ("y",)  # (schroedinger.2)

    @property
    def epsilon(self) -> Array:
        """Computes sigma_T^2, the entropy's weight in the static problem, in units of x squared."""
        base = self.schedule.base
        return base(base.t_max)[1] ** 2  # (schroedinger.1)

    def carried(self, x0: Array) -> Array:
        """Computes alpha_T x_0, the mean of the reference's end: the static cost is |y - alpha_T x_0|^2 / 2."""
        base = self.schedule.base
        return base(base.t_max)[0] * x0

    def check_data(self, brought: tuple[str, ...], name: str) -> None:
        """Raises a ValueError unless the endpoints come from data or from the base process, one of the two."""
        if not self.from_noise and "y" not in brought:
            raise ValueError(
                f"{name} has no endpoints, where a Schroedinger bridge starts: set data.name=between with data.end "
                "and data.start (in Python data.crossed(end, start)), or process.from_noise=True."
            )
        super().check_data(brought, name)


def schroedinger(schedule: Schedule, from_noise: bool = False) -> Schroedinger:
    """Makes the process of one half of a Schroedinger bridge: from endpoints y to data x_0, by the reverse SDE.

    Args:
        schedule: the reference's: `EDM(t_max=s)` is Brownian motion whose end has the variance s^2; any other is right
            as long as its SNR at t_max is not 0, but its halves are of two references.
        from_noise: endpoints are drawn by the base process: the ordinary diffusion.

    Raises:
        ValueError: as `bridge`.
    """
    return Schroedinger(MarkovSchedule(bridge(schedule).schedule.base), from_noise=from_noise)
