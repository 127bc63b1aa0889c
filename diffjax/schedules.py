"""Noise schedules t -> (alpha, sigma) of x_t = alpha x_0 + sigma z; `calculus` has what follows from them.

alpha and sigma are amplitudes: kexue's alpha-bar and beta-bar, the square roots of DDPM's `alphas_cumprod` and
`1 - alphas_cumprod`. Time runs from 0 (data) to `t_max` (noise). Every formula is written so that float32 is enough:
the relative error of sigma stays below 1e-6 down to t = 1e-5. Hyper-parameters are pytree leaves: changing one does
not retrace, and gradients with respect to them exist at every t, both ends included. That with respect to t does where
the slope is finite: at t = 0 sigma of VP, Cosine and Tabulated rises like sqrt(t).
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffjax import host
from diffjax.roots import leaving_zero
from diffjax.spectral import Spectral as Spectral
from diffjax.spectral import Still as Still
from diffjax.tabulated import MOST_STEPS as MOST_STEPS
from diffjax.tabulated import Rounded, Tabulated
from diffjax.types import Array, pytree, real, static

__all__ = [  # what a config may name
    "EDM",
    "VDM",
    "VE",
    "VP",
    "Cosine",
    "Counted",
    "Rectified",
    "Rounded",
    "Still",
    "SubVP",
    "Tabulated",
]

_HALF_PI = np.pi / 2


@pytree
class VP:
    """The variance-preserving schedule with beta(t) linear in t (Song et al. 2021, eq. 33; kexue 9209).

    alpha^2 + sigma^2 = 1.

    Attributes:
        beta_min, beta_max: beta at t = 0 and t = 1, in 1 / time.
        t_max: the time of most noise, where sampling starts.
    """

    beta_min: float = 0.1
    beta_max: float = 20.0
    t_max: float = 1.0

    def __call__(self, t: Any) -> tuple[Array, Array]:
        """Computes (alpha_t, sigma_t): alpha = exp(-B / 2), sigma^2 = 1 - exp(-B), B = integral of beta."""
        return _vp(self, real(t))

    def inverse(self, log_snr: Any) -> Array:
        """Finds the time of a log-SNR: B = softplus(-log_snr), then the stable root of the quadratic."""
        return _linear_beta_time(self.beta_min, self.beta_max, jax.nn.softplus(-log_snr))

    def remaining(self, t: Any) -> Array:
        """Computes log(SNR_t / SNR_T), whose ratio is expm1(B_T) / expm1(B_t) = 1 + expm1(B_T - B_t) / -expm1(-B_t)."""
        left, integral = _linear_beta_left(self, t)
        return jnp.log1p(jnp.expm1(left) / -jnp.expm1(-integral))


@leaving_zero
def _vp(schedule: VP, t: Array) -> tuple[Array, Array]:
    integral = _linear_beta_integral(schedule.beta_min, schedule.beta_max, t)
    return jnp.exp(-0.5 * integral), jnp.sqrt(-jnp.expm1(-integral))  # (vp.1)


@pytree
class VDM:
    """The variance-preserving schedule with a log-SNR linear in t (Kingma et al. 2021, appendix H).

    gamma, minus the log-SNR, rises from gamma_min to gamma_max; data at t = 0 carries noise of variance
    sigmoid(gamma_min). `losses.learned` bends the straight line.

    alpha^2 = sigmoid(-gamma), sigma^2 = sigmoid(gamma).

    Attributes:
        gamma_min, gamma_max: minus the log-SNR at t = 0 and at t_max.
        t_max: the time of most noise, where sampling starts.
    """

    gamma_min: float = -13.3
    gamma_max: float = 5.0
    t_max: float = 1.0

    def __call__(self, t: Any) -> tuple[Array, Array]:
        """Computes (alpha_t, sigma_t): alpha^2 = sigmoid(-gamma), sigma^2 = sigmoid(gamma)."""
        gamma = self.gamma_min + (self.gamma_max - self.gamma_min) * real(t) / self.t_max  # (cosine.3)
        return jnp.exp(-0.5 * jax.nn.softplus(gamma)), jnp.exp(-0.5 * jax.nn.softplus(-gamma))  # (cosine.4)

    def inverse(self, log_snr: Any) -> Array:
        """Finds the time of a log-SNR, which is linear in it."""
        return self.t_max * (-log_snr - self.gamma_min) / (self.gamma_max - self.gamma_min)

    def remaining(self, t: Any) -> Array:
        """Computes log(SNR_t / SNR_T), which is linear in t: 0 at t_max."""
        return (self.gamma_max - self.gamma_min) * (self.t_max - real(t)) / self.t_max


@pytree
class SubVP:
    """The sub-VP schedule: alpha of `VP` with the smaller sigma = 1 - exp(-B) (Song et al. 2021, eq. 29).

    Attributes:
        beta_min, beta_max: beta at t = 0 and t = 1, in 1 / time.
        t_max: the time of most noise, where sampling starts.
    """

    beta_min: float = 0.1
    beta_max: float = 20.0
    t_max: float = 1.0

    def __call__(self, t: Any) -> tuple[Array, Array]:
        """Computes (alpha_t, sigma_t); alpha^2 + sigma = 1."""
        integral = _linear_beta_integral(self.beta_min, self.beta_max, t)
        return jnp.exp(-0.5 * integral), -jnp.expm1(-integral)  # (vp.3)

    def inverse(self, log_snr: Any) -> Array:
        """Finds the time of a log-SNR: snr sigma^2 + sigma = 1 gives sigma, B = -log(1 - sigma) = -log(snr sigma^2)."""
        log_sigma = jnp.log(2.0) - jnp.logaddexp(0.0, 0.5 * jnp.logaddexp(0.0, jnp.log(4.0) + log_snr))
        small = jnp.minimum(jnp.exp(log_sigma), 0.5)
        integral = jnp.where(log_sigma < -math.log(2.0), -jnp.log1p(-small), -(log_snr + 2 * log_sigma))
        return _linear_beta_time(self.beta_min, self.beta_max, integral)

    def remaining(self, t: Any) -> Array:
        """Computes log(SNR_t / SNR_T): that of `VP`, and log(sigma_T / sigma_t) once more, sigma = -expm1(-B)."""
        left, integral = _linear_beta_left(self, t)
        rise = jnp.expm1(left) / -jnp.expm1(-integral)
        return jnp.log1p(rise) + jnp.log1p(-jnp.expm1(-left) / jnp.expm1(integral))


def _linear_beta_integral(beta_min: Any, beta_max: Any, t: Any) -> Array:
    """Computes B(t), the integral of beta from 0 to t."""
    t = real(t)
    return t * (beta_min + 0.5 * t * (beta_max - beta_min))  # (vp.2)


def _linear_beta_time(beta_min: Any, beta_max: Any, integral: Any) -> Array:
    """Solves beta_min t + (beta_max - beta_min) t^2 / 2 = integral without cancellation."""
    return 2 * integral / (beta_min + jnp.sqrt(beta_min**2 + 2 * (beta_max - beta_min) * integral))  # (vp.4)


def _linear_beta_left(schedule: "VP | SubVP", t: Any) -> tuple[Array, Array]:
    """Computes (B_T - B_t, B_t), the first as a product with T - t."""
    t, end = real(t), schedule.t_max
    left = (end - t) * (schedule.beta_min + 0.5 * (end + t) * (schedule.beta_max - schedule.beta_min))
    return left, _linear_beta_integral(schedule.beta_min, schedule.beta_max, t)


@pytree
class VE:
    """The variance-exploding schedule, sigma geometric in t (Song et al. 2021, eq. 31): alpha = 1.

    sigma(0) = sigma_min, as in the discrete NCSN: data at t = 0 carries noise of that size.

    Attributes:
        sigma_min, sigma_max: sigma at t = 0 and t = 1, in units of x_0.
        t_max: the time of most noise, where sampling starts.
    """

    sigma_min: float = 0.01
    sigma_max: float = 50.0
    t_max: float = 1.0

    def __call__(self, t: Any) -> tuple[Array, Array]:
        """Computes (1, sigma_min (sigma_max / sigma_min)^t)."""
        # exp of a small number times sigma_min, rather than a power: float32's pow loses a digit at large ratios.
        sigma = self.sigma_min * jnp.exp(real(t) * jnp.log(self.sigma_max / self.sigma_min))  # (ve.1)
        return jnp.ones_like(sigma), sigma

    def inverse(self, log_snr: Any) -> Array:
        """Finds the time of a log-SNR, which is linear in it."""
        return (-0.5 * log_snr - jnp.log(self.sigma_min)) / jnp.log(self.sigma_max / self.sigma_min)

    def remaining(self, t: Any) -> Array:
        """Computes log(SNR_t / SNR_T), which is linear in t: 0 at t_max."""
        return 2 * (self.t_max - real(t)) * jnp.log(self.sigma_max / self.sigma_min)


@pytree
class EDM:
    """The schedule alpha = 1, sigma = t: time is the noise level (Karras et al. 2022; heat equation, kexue 9280 (16)).

    Attributes:
        t_max: the time of most noise: the largest sigma, in units of x_0.
    """

    t_max: float = 80.0

    def __call__(self, t: Any) -> tuple[Array, Array]:
        """Computes (alpha_t, sigma_t) = (1, t)."""
        sigma = real(t)  # (ve.2)
        return jnp.ones_like(sigma), sigma

    def inverse(self, log_snr: Any) -> Array:
        """Finds the time of a log-SNR: sigma itself, exp(-log_snr / 2)."""
        return jnp.exp(-0.5 * log_snr)  # (ve.3)

    def remaining(self, t: Any) -> Array:
        """Computes log(SNR_t / SNR_T) = 2 log(T / t)."""
        return 2 * jnp.log1p((self.t_max - real(t)) / t)


@pytree
class Cosine:
    """The cosine schedule alpha = cos(u) / cos(u_0), u = (t + s) / (1 + s) pi / 2 (Nichol & Dhariwal 2021, eq. 17).

    alpha reaches 0 at t = 1, where eps- and score-prediction lose x_0: they refuse it. Either end earlier
    (`t_max = 0.999`), or use the published table, whose clipped betas never get there: `Tabulated.cosine()`.

    Attributes:
        s: offset of the angle, in units of t.
        t_max: the time of most noise, at most 1.
    """

    s: float = 0.008
    t_max: float = 1.0

    def __call__(self, t: Any) -> tuple[Array, Array]:
        """Computes (alpha_t, sigma_t); alpha^2 + sigma^2 = 1, both as products of sines, exact at both ends."""
        return _cosine(self, real(t))

    def inverse(self, log_snr: Any) -> Array:
        """Finds the time of a log-SNR: alpha^2 = sigmoid(log_snr) gives cos(u) and sin(u)."""
        start, turn = self._angles()
        first_cos, first_sin = jnp.cos(start), jnp.sin(start)
        product = jax.nn.sigmoid(-log_snr) * first_cos**2  # sin(u - u_0) sin(u + u_0): a difference of angles cancels
        cosine, sine = jnp.sqrt(jax.nn.sigmoid(log_snr)) * first_cos, jnp.sqrt(product + first_sin**2)
        sine_of_sum = sine * first_cos + cosine * first_sin
        return jnp.arctan2(product, (cosine * first_cos + sine * first_sin) * sine_of_sum) / turn

    def _angles(self) -> tuple[Any, Any]:
        """Computes u at t = 0, and how far u travels until t = 1."""
        return self.s / (1 + self.s) * _HALF_PI, _HALF_PI / (1 + self.s)


@leaving_zero
def _cosine(schedule: Cosine, t: Array) -> tuple[Array, Array]:
    start, turn = schedule._angles()
    travelled = t * turn
    # (cosine.1)
    alpha = jnp.sin((1 - t) * turn) / jnp.cos(start)  # cos(u) = sin(pi/2 - u): exactly 0 at t = 1
    # cos(u_0)^2 - cos(u)^2 = sin(u - u_0) sin(u + u_0): no cancellation at small t
    return alpha, jnp.sqrt(jnp.sin(travelled) * jnp.sin(2 * start + travelled)) / jnp.cos(start)  # (cosine.2)


@pytree
class Rectified:
    """The straight lines x_t = (1 - t) x_0 + t z (Liu et al. 2022; kexue 9497 (7), which has this orientation).

    Attributes:
        t_max: the time of most noise, at most 1.
    """

    t_max: float = 1.0

    def __call__(self, t: Any) -> tuple[Array, Array]:
        """Computes (alpha_t, sigma_t) = (1 - t, t)."""
        sigma = real(t)
        return 1 - sigma, sigma  # (cosine.5)

    def inverse(self, log_snr: Any) -> Array:
        """Finds the time of a log-SNR: t / (1 - t) = exp(-log_snr / 2)."""
        return jax.nn.sigmoid(-0.5 * log_snr)

    def remaining(self, t: Any) -> Array:
        """Computes log(SNR_t / SNR_T) = 2 log((1 - t) / (1 - T)) + 2 log(T / t); infinite for T = 1."""
        left = self.t_max - real(t)
        return 2 * (jnp.log1p(left / (1 - self.t_max)) + jnp.log1p(left / t))


@pytree
class Counted:
    """The share of places whose token is wrong, t of a number of them: time is a count, and its grid the integers.

    Of processes of tokens alone (`processes.editing`, kexue 9271), where alpha is the probability to be kept.

    Attributes:
        length: L, the number of places; part of the structure, for it is the end of time.
    """

    length: int = static()

    def __post_init__(self) -> None:
        """Raises a ValueError unless length is an integer >= 1."""
        host.check_int("length", self.length)

    @property
    def t_max(self) -> float:
        """L: every place is wrong."""
        return float(self.length)

    @property
    def steps(self) -> int:
        """L, the number of steps of the chain that has one place wrong more at each."""
        return self.length

    def __call__(self, t: Any) -> tuple[Array, Array]:
        """Computes (alpha_t, sigma_t) = (1 - t / L, t / L)."""
        sigma = real(t) / self.length
        return 1 - sigma, sigma  # (editing.1)


def count(t: Any) -> Array:
    """Reads a time as a count, int32: times between two counts are the higher one's, so that t ~ U(0, L] counts evenly.

    A thousandth above a count is still that one: what a rounded time is not to change.
    """
    return jnp.ceil(real(t) - 1e-3).astype(jnp.int32)
