"""A diffusion chain read as a variational autoencoder of many latents, its bound in closed form on a Gaussian.

kexue 9152 (5): the latents are x_T, ..., x_1, each of x's shape; the encoder is the chain, fixed; the decoder's steps
are p(x_s | x_t). For entries x_0 ~ N(0, v) and a decoder of exact means, E[x_0 | x_t], whose variance is a rule's,
every term of the bound is known. With gain = SNR_s - SNR_t, beta_tilde the variance of q(x_s | x_t, x_0), and

    V_t = Var[x_0 | x_t] = v sigma_t^2 / (alpha_t^2 v + sigma_t^2),

in nats for each entry, in the mean over x_0 and the latents,

    prior           KL(q(x_T | x_0) || N(0, 1))  =  (alpha_T^2 v + sigma_T^2 - 1 - log sigma_T^2) / 2
    step t -> s     KL(q || p)                   =  (log w + (1 + gain V_t) / w - 1) / 2,    w = the rule's / beta_tilde
    reconstruction  -log p(x_0 | x_1)            =  log(2 pi e V_1) / 2

and the rules for w are those of `denoisers.variance`:

    exact  1 + gain V_t      small  1      large  sigma_t^2 / sigma_s^2    (Ho et al. 2020: beta_tilde, beta)

What the total has above the entropy log(2 pi e v) / 2 is the prior's mismatch KL(q(x_T) || N(0, 1)), and for each step
(r - 1 - log r) / 2 with r = (1 + gain V_t) / w, the true reverse variance over the model's: with the exact variance
more latents lose nothing, with `small` they lose ever more, for its variance near the data is wrong by a factor that
does not depend on the number of steps.

The autoencoder whose one latent is learned too has no such loss: for decoder noise s^2 <= v the linear one pays
KL = log(v / s^2) / 2 and reconstructs at log(2 pi e s^2) / 2, whose sum is the entropy (`methods.autoencoder`).
"""

from typing import Any, NamedTuple

import numpy as np

from diffjax import chains, grids
from diffjax.calculus import amplitudes, need_gaussian, need_scalar
from diffjax.types import Schedule

RULES = ("exact", "small", "large")


class Terms(NamedTuple):
    """The terms of a bound of -log p(x), in nats for each entry, in the mean over the data.

    Attributes:
        prior: what the first latent tells of x beyond the prior; of an autoencoder its KL.
        steps: (N - 1,) of the steps between latents, noisiest first; none of an autoencoder.
        reconstruction: -log p(x | the last latent).
        entropy: of the data, which no total is below.
    """

    prior: float
    steps: np.ndarray
    reconstruction: float
    entropy: float

    @property
    def total(self) -> float:
        """The bound: the sum of its terms."""
        return float(self.prior + np.sum(self.steps) + self.reconstruction)

    @property
    def gap(self) -> float:
        """What the bound has above the entropy."""
        return self.total - self.entropy


def chain_terms(schedule: Schedule, ts: Any, v: float, rule: str = "exact") -> Terms:
    """Computes the terms of a chain's bound on x_0 ~ N(0, v), with exact means and the variance of a rule.

    Args:
        schedule: of scalar amplitudes.
        ts: decreasing times (N + 1,), the last one data: N latents.
        v: variance of an entry.
        rule: of `RULES`; the step to data has the exact variance by every rule.

    Raises:
        ValueError: for another rule, a variance that is not positive, or a grid that does not end in data.
    """
    if rule not in RULES:
        raise ValueError(f"Got rule = {rule!r}, expected one of {', '.join(RULES)}.")
    if not 0 < v < np.inf:
        raise ValueError(f"Got v = {v!r}, expected a positive variance.")
    need_gaussian(schedule, "The bound is that of a chain with Gaussian steps", "it has no chain to bound")
    need_scalar(schedule, "The bound of a chain from noise")
    ts = grids.check(ts, float(schedule.t_max))
    alpha, sigma = amplitudes(schedule, ts)
    if sigma[-1] > 0:
        raise ValueError(f"The grid ends at t = {ts[-1]:g} with noise, expected one that ends in data, sigma = 0.")
    gain = np.asarray(chains.chain(schedule, ts).gain)[:-1]
    alpha, sigma = alpha[:-1], sigma[:-1]
    posterior = v * sigma**2 / (alpha**2 * v + sigma**2)
    known = 1 + gain * posterior[:-1]
    ratio = {"exact": known, "small": np.ones_like(known), "large": (sigma[:-1] / sigma[1:]) ** 2}[rule]
    steps = 0.5 * (np.log(ratio) + known / ratio - 1)  # (hierarchy.1)
    prior = 0.5 * (alpha[0] ** 2 * v + sigma[0] ** 2 - 1 - 2 * np.log(sigma[0]))  # (hierarchy.2)
    return Terms(float(prior), steps, _entropy(posterior[-1]), _entropy(v))


def linear_terms(v: float, std: float) -> Terms:
    """Computes the terms of the best linear autoencoder of one latent for each entry x ~ N(0, v), at decoder noise std.

    Above std^2 = v the latent collapses, and the bound is the loss of a decoder that is too noisy.

    Raises:
        ValueError: for a number that is not positive.
    """
    for name, value in (("v", v), ("std", std)):
        if not 0 < value < np.inf:
            raise ValueError(f"Got {name} = {value!r}, expected a positive number.")
    s2 = std**2
    rate = 0.5 * max(np.log(v / s2), 0.0)
    return Terms(float(rate), np.zeros(0), 0.5 * (np.log(2 * np.pi * s2) + min(v / s2, 1.0)), _entropy(v))


def _entropy(v: float) -> float:
    return float(0.5 * np.log(2 * np.pi * np.e * v))
