"""Schedules that are tables of a chain's steps: t = k / T after k of them; and EDM's clock for the levels of a chain.

Of betas beta_1 .. beta_T, alpha_k^2 is the product of 1 - beta_j over j <= k (Ho et al. 2020;
kexue 9119 (6)).
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffjax import host
from diffjax.roots import leaving_zero
from diffjax.types import Array, pytree, real

MOST_STEPS = 1_000_000  # 250 times the longest published chain


@pytree
class Tabulated:
    """A discrete chain of T steps, `t = k / T` after k of them, from any DDPM-style betas.

    Between two entries log alpha is linear, i.e. beta(t) is constant on a step. The table holds log alpha in float64
    on the host (plans are made from it) and becomes float32 on the device; sigma^2 = -expm1(2 log alpha) keeps its
    full relative precision there, which 1 - alphas_cumprod does not.

    Attributes:
        log_alpha: (T + 1,), decreasing, 0 first.
    """

    log_alpha: Any
    t_max: float = 1.0

    @classmethod
    def from_betas(cls, betas: Any) -> "Tabulated":
        """Makes the chain x_k = sqrt(1 - beta_k) x_{k-1} + sqrt(beta_k) eps of the betas (T,) (kexue 9119 (3)).

        Raises:
            ValueError: unless betas is a non-empty vector of numbers in (0, 1).
        """
        betas = np.asarray(betas, np.float64)
        if betas.ndim != 1 or betas.size == 0:
            raise ValueError(f"betas has shape {betas.shape}, expected a non-empty vector (T,).")
        bad = np.flatnonzero(~((betas > 0) & (betas < 1)))
        if bad.size:
            raise ValueError(f"betas[{bad[0]}] is {betas[bad[0]]}, expected every beta in (0, 1).")
        return cls(np.concatenate([[0.0], 0.5 * np.cumsum(np.log1p(-betas))]))  # (tables.1)

    @classmethod
    def linear(cls, steps: int = 1000, beta_1: float = 1e-4, beta_T: float = 0.02) -> "Tabulated":
        """Makes the chain of DDPM's betas (Ho et al. 2020, section 4), times 1000 / steps (Nichol & Dhariwal 2021).

        Raises:
            ValueError: for fewer than 1 step, or so few that a scaled beta is not below 1 (20 of the default betas).
        """
        _check_chain(steps)
        scale = 1000 / steps
        if 0 < max(beta_1, beta_T) < 1 <= max(beta_1, beta_T) * scale:
            least = int(np.floor(1000 * max(beta_1, beta_T))) + 1
            raise ValueError(
                f"A linear chain of {steps} steps has betas up to {max(beta_1, beta_T):g} times 1000 / {steps} = "
                f"{max(beta_1, beta_T) * scale:g}, expected every beta in (0, 1): take steps >= {least}, a smaller "
                "beta_T, or from_betas, which scales nothing."
            )
        return cls.from_betas(np.linspace(beta_1, beta_T, steps) * scale)  # (tables.2)

    @classmethod
    def cosine(cls, steps: int = 1000, s: float = 0.008, max_beta: float = 0.999) -> "Tabulated":
        """Makes the chain of the cosine table, betas clipped at `max_beta` (Nichol & Dhariwal 2021, section 3.2)."""
        _check_chain(steps)
        bar = np.cos((np.arange(steps + 1) / steps + s) / (1 + s) * np.pi / 2) ** 2
        return cls.from_betas(np.minimum(1 - bar[1:] / bar[:-1], max_beta))  # (tables.3)

    @classmethod
    def kexue(cls, steps: int = 1000, last: float = 0.02) -> "Tabulated":
        """Makes the chain x_k = sqrt(1 - last k / T) x_{k-1} + sqrt(last k / T) eps (kexue 9119 (18))."""
        _check_chain(steps)
        return cls.from_betas(last * np.arange(1, steps + 1) / steps)  # (tables.4)

    @property
    def steps(self) -> int:
        """The number T of steps of the chain."""
        return len(self.log_alpha) - 1

    @property
    def knots(self) -> np.ndarray:
        """The times (T + 1,) between which beta is constant."""
        return np.arange(self.steps + 1) / self.steps

    def __call__(self, t: Any) -> tuple[Array, Array]:
        """Computes (alpha_t, sigma_t); alpha^2 + sigma^2 = 1."""
        return _tabulated(self, real(t))

    def inverse(self, log_snr: Any) -> Array:
        """Finds the time of a log-SNR: alpha^2 = sigmoid(log_snr)."""
        value = real(log_snr)
        table, count = jnp.asarray(self.log_alpha, value.dtype), jnp.arange(self.steps + 1, dtype=value.dtype)
        position = jnp.interp(0.5 * jax.nn.softplus(-value), -table, count)
        return position / self.steps


@leaving_zero
def _tabulated(schedule: Tabulated, t: Array) -> tuple[Array, Array]:
    position = t * schedule.steps
    # A knot belongs to the step that ends there: beta(k / T) is beta_k, what a sampler that leaves it needs.
    k = jnp.clip(jnp.ceil(position * (1 - jnp.finfo(position.dtype).eps)), 1, schedule.steps)
    table, end = jnp.asarray(schedule.log_alpha, position.dtype), k.astype(int)
    log_alpha = table[end - 1] + (position - (k - 1)) * (table[end] - table[end - 1])  # (tables.5)
    return jnp.exp(log_alpha), jnp.sqrt(0.0 - jnp.expm1(2 * log_alpha))  # 0 - y: -y would make sigma_0 = -0


@pytree
class Rounded:
    """EDM's clock for a network that knows some noise levels only: `inverse` gives the nearest (Karras et al. 2022).

    Grids made through the inverse (`grids.rounded`) and churn, which raises the noise through it, stay on the levels.

    Attributes:
        levels: (M,) rising values of sigma / alpha.
    """

    levels: Any

    @classmethod
    def chain(cls, kind: str = "linear", **options: Any) -> "Rounded":
        """Makes the clock of a DDPM-style chain's levels: `Tabulated.linear`, `cosine` or `kexue`."""
        makers = {"linear": Tabulated.linear, "cosine": Tabulated.cosine, "kexue": Tabulated.kexue}
        if kind not in makers:
            raise ValueError(f"There is no chain {kind!r}; there are {', '.join(makers)}.")
        log_alpha = np.asarray(makers[kind](**options).log_alpha)
        return cls(np.sqrt(np.expm1(-2 * log_alpha[1:])))

    @property
    def t_max(self) -> Any:
        """The noisiest level, sigma / alpha."""
        return self.levels[-1]

    def __call__(self, t: Any) -> tuple[Array, Array]:
        """Computes (alpha_t, sigma_t) = (1, t)."""
        sigma = real(t)
        return jnp.ones_like(sigma), sigma

    def inverse(self, log_snr: Any) -> Array:
        """Finds the level nearest to sigma / alpha = exp(-log_snr / 2), in sigma."""
        value = real(log_snr)
        levels = jnp.asarray(self.levels, value.dtype)
        return levels[jnp.argmin(jnp.abs(levels - jnp.exp(-0.5 * value)))]


def _check_chain(steps: Any) -> None:
    if not host.is_int(steps, 1):
        raise ValueError(f"The chain has {steps!r} steps, expected an integer >= 1.")
    if steps > MOST_STEPS:
        raise ValueError(f"The chain has {steps} steps, expected at most {MOST_STEPS}.")
