"""Every sampler and every schedule under test, one row each: what the sampler tests are parametrised by."""

from collections.abc import Callable
from typing import Any, NamedTuple
from unittest import mock

import closed_forms as forms
import jax
import jax.numpy as jnp
import numpy as np

from diffjax import calculus, grids
from diffjax.samplers import (
    Sampler,
    ancestral,
    deis,
    heun,
    multistep,
    pndm,
    predictor,
    principal,
    restart,
    sampling_fn,
    sde,
    singlestep,
    unipc,
)
from diffjax.schedules import EDM, VE, VP, Cosine, Rectified, SubVP, Tabulated
from diffjax.types import Posterior, Schedule, pytree, static


class Setting(NamedTuple):
    """A schedule, its closed form, and whether alpha is 0 where sampling starts."""

    schedule: Schedule
    form: forms.Form
    from_pure_noise: bool = False


class Row(NamedTuple):
    """A sampler.

    Attributes:
        make: schedule -> sampler.
        order: of convergence on smooth grids that end at a fixed sigma > 0, as the theory has it: the smallest of the
            method's, its start's and its end's. For a random sampler, the weak order: that of mean and variance.
        settings: names of the schedules on which it is defined.
        deterministic: whether it ignores its key.
        primed: the method's own order, which a multistep sampler shows once its history is exact.
        first: sigma / alpha where the walks start of which `order` is measured.
        steps: of those walks.
    """

    make: Callable[[Schedule], Sampler]
    order: int
    settings: tuple[str, ...]
    deterministic: bool = True
    primed: int | None = None
    first: float = 2.0
    steps: tuple[int, int] = (320, 640)


def _linear_betas(steps=1000):
    return np.linspace(forms.wide("1e-4"), forms.wide("0.02"), steps) * 1000 / steps


def _cosine_betas(steps=1000):
    bar = np.cos((np.arange(steps + 1) / forms.wide(steps) + forms.wide("0.008")) / forms.wide("1.008") * forms.PI / 2)
    return np.minimum(1 - (bar[1:] / bar[:-1]) ** 2, forms.wide("0.999"))


SETTINGS = {
    "vp": Setting(VP(), forms.VP),
    "sub_vp": Setting(SubVP(), forms.SUB_VP),
    "ve": Setting(VE(), forms.VE),
    "edm": Setting(EDM(), forms.EDM),
    "cosine": Setting(Cosine(t_max=0.999), forms.COSINE),
    "cosine_1": Setting(Cosine(), forms.COSINE, from_pure_noise=True),
    "rectified": Setting(Rectified(t_max=0.999), forms.RECTIFIED),
    "rectified_1": Setting(Rectified(), forms.RECTIFIED, from_pure_noise=True),
    "table_linear": Setting(Tabulated.linear(), forms.chain(_linear_betas())),
    "table_cosine": Setting(Tabulated.cosine(), forms.chain(_cosine_betas())),
}
ALL = tuple(SETTINGS)
FINITE = tuple(name for name, setting in SETTINGS.items() if not setting.from_pure_noise)  # those of finite SNR
FEW = ("vp", "edm", "rectified", "table_linear")
SOME = (*FEW, "ve")  # of what differs from a row with all of them by one rule or setting

# Adams(3) starts with one step of order 1 and one of order 2: local errors h^2 and h^3, so that the whole is of order
# 2. The published 3M takes half the weight of the second difference: order 2 even with an exact history.
SAMPLERS = {
    "ddim": Row(ancestral.ddim, 1, ALL),
    "ddim_half": Row(lambda s: ancestral.ddim(s, eta=0.5), 1, ALL, deterministic=False),
    "ddpm": Row(ancestral.ddpm, 1, ALL, deterministic=False),
    "pf_euler": Row(lambda s: sde.euler_maruyama(s, churn=0.0), 1, FINITE),
    "em_half": Row(lambda s: sde.euler_maruyama(s, churn=0.5), 1, FINITE, deterministic=False),
    "em": Row(sde.euler_maruyama, 1, FINITE, deterministic=False),
    "reverse_diffusion": Row(predictor.reverse_diffusion, 1, SOME, deterministic=False),
    "large_variance": Row(predictor.ancestral, 1, SOME, deterministic=False),
    "heun": Row(heun.edm, 2, FINITE),
    "heun_churn": Row(lambda s: heun.edm(s, churn=4.0, s_min=0.05, s_max=20.0), 2, FINITE, deterministic=False),
    "adams_1": Row(lambda s: multistep.adams(s, 1), 1, (*SOME, "cosine_1")),
    "adams_2": Row(lambda s: multistep.adams(s, 2), 2, ALL, primed=2),
    "adams_3": Row(lambda s: multistep.adams(s, 3), 2, ALL, primed=3),
    "adams_3_lower": Row(lambda s: multistep.adams(s, 3, lower_final=True), 2, SOME),
    "dpmpp_2m": Row(multistep.dpmpp_2m, 2, (*SOME, "cosine_1"), primed=2),
    "dpmpp_2m_lower": Row(lambda s: multistep.dpmpp_2m(s, lower_final=True), 2, SOME),
    "dpmpp_3m": Row(multistep.dpmpp_3m, 2, (*SOME, "cosine_1"), primed=2),
    "dpmpp_3m_lower": Row(lambda s: multistep.dpmpp_3m(s, lower_final=True), 2, SOME),
}

RESTARTS = ((3, 2, 0.06, 0.3), (2, 1, 0.6, 1.5))
AXES = principal.Axes(0.0, 0.3)  # what the data of these tests is taken for, wrongly


def beyond(order):
    """The predictor of this order beyond a Gaussian fit, from any level."""
    return lambda s: principal.adams(s, AXES, order, free_start=False)


# One step of order k in a walk of order p > k costs an error h^(k+1), once.
# - Noise: the covariance of x_t and x_s has a kink at t = s, so that no multistep rule is of weak order above 2.
# - Adams-Bashforth on the noise (tab, lms): 2 by the first step, of order 1. From sigma = 70 alpha, where the noise is
#   known, that step costs nothing, and their own order p shows. PNDM and iPNDM take the weights of equal steps: 2.
# - UniPC-p: p + 1 by its corrector; 3 by the first step, corrected to order 2, which is free from sigma = 70 alpha too.
# - Beyond a Gaussian fit: as UniPC, in an angle.
#   lower_final ends with a step of order 1, whose error has the small factor (sigma / alpha)^2.
SAMPLERS |= {
    "adams_2_tau": Row(lambda s: multistep.adams(s, 2, tau=0.7), 2, (*SOME, "cosine_1"), deterministic=False),
    "adams_3_tau": Row(lambda s: multistep.adams(s, 3, tau=1.0), 2, (*FEW, "rectified_1"), deterministic=False),
    "dpmpp_2m_sde": Row(multistep.dpmpp_2m_sde, 2, (*FEW, "cosine_1"), deterministic=False),
    "dpmpp_2m_sde_heun": Row(lambda s: multistep.dpmpp_2m_sde(s, 0.6, "heun"), 2, FEW, deterministic=False),
    "dpmpp_3m_sde": Row(multistep.dpmpp_3m_sde, 2, (*FEW, "rectified_1"), deterministic=False),
    "dpm_solver_2": Row(singlestep.dpm_solver, 2, FEW, steps=(160, 320)),
    "dpm_solver_3": Row(lambda s: singlestep.dpm_solver(s, 3), 3, FEW, steps=(160, 320)),
    "dpmpp_2s": Row(singlestep.dpmpp_2s, 2, (*FEW, "rectified_1"), steps=(160, 320)),
    "tab_2": Row(lambda s: deis.tab(s, 2), 2, FEW, primed=2),
    "tab_3": Row(deis.tab, 3, FEW, primed=3, first=70.0),
    "tab_4": Row(lambda s: deis.tab(s, 4), 2, FEW, primed=4),
    "lms_3": Row(lambda s: deis.lms(s, 3), 3, FEW, primed=3, first=70.0),
    "lms_4": Row(deis.lms, 4, FEW, primed=4, first=70.0),
    "ipndm_2": Row(lambda s: pndm.ipndm(s, 2), 2, FEW, primed=2),
    "ipndm_4": Row(pndm.ipndm, 2, FEW, primed=2),
    "pndm": Row(pndm.pndm, 2, FEW, steps=(160, 320)),
    "unipc_1": Row(lambda s: unipc.unipc(s, 1), 2, (*FEW, "cosine_1")),
    "unipc_2_bh1": Row(lambda s: unipc.unipc(s, 2, "bh1"), 3, FEW, steps=(160, 320)),
    "unipc_2_full": Row(lambda s: unipc.unipc(s, 2, "bh2", lower_final=False), 3, FEW, primed=3),
    "unipc_3": Row(unipc.unipc, 4, (*FEW, "rectified_1"), first=70.0, steps=(80, 160)),
    "unipc_3_exact": Row(lambda s: unipc.unipc(s, 3, "exact"), 4, FEW, first=70.0, steps=(80, 160)),
    "unipc_3_full": Row(lambda s: unipc.unipc(s, 3, "bh1", lower_final=False), 4, FEW, primed=4, first=70.0),
    "principal_1": Row(beyond(1), 2, (*FEW, "cosine_1")),
    "principal_2": Row(beyond(2), 3, FEW, primed=3, steps=(160, 320)),
    "principal_3": Row(beyond(3), 4, (*FEW, "rectified_1"), first=70.0),
    "restart": Row(lambda s: restart.restart(s, RESTARTS), 2, FEW, deterministic=False),
}
# One of each program, with noise and without: those of one kind differ by numbers alone.
KINDS = list(
    {(row.make(VP()).step, row.make(VP()).init, row.deterministic): name for name, row in SAMPLERS.items()}.values()
)
EVERY_PAIR = [(sampler, setting) for sampler, row in SAMPLERS.items() for setting in row.settings]


def grid(setting: str, n: int, t_min: float = 2.3e-3, zero: bool = True) -> np.ndarray:
    """A sensible grid of n steps: Karras et al.'s, or equal steps in t where sampling starts at alpha = 0.

    t_min is none of a chain's knots: its rates jump there.
    """
    schedule = SETTINGS[setting].schedule
    make = grids.uniform if SETTINGS[setting].from_pure_noise else grids.karras
    return make(schedule, n, t_min=t_min, zero=zero)


def grid_for(name: str, setting: str, n: int, zero: bool = True) -> np.ndarray:
    """`grid`, but equal steps in t for tAB-DEIS: where they are tiny, high powers of t cancel."""
    if name.startswith("tab"):
        return grids.uniform(SETTINGS[setting].schedule, n, t_min=2.3e-3, zero=zero)
    return grid(setting, n, zero=zero)


class HostModel:
    """A NumPy denoiser behind the library's interface; its amplitudes come from the closed form, not the schedule."""

    def __init__(self, denoise: Callable[..., Any], schedule: Schedule, form: forms.Form, var: Any = None):
        self.denoise, self.schedule, self.form, self.var = denoise, schedule, form, var

    def __call__(self, x, t) -> Posterior:
        alpha, sigma = amplitudes(self.form, float(t))
        mean = jnp.asarray(self.denoise(np.asarray(x), alpha, sigma))
        return Posterior(mean) if self.var is None else Posterior(mean, jnp.asarray(self.var(alpha, sigma)))


def amplitudes(form: forms.Form, t) -> tuple[Any, Any]:
    """(alpha, sigma) of a closed form, float64; cos(pi / 2) is 0."""
    alpha, sigma = form.amplitudes(np.asarray(t, forms.wide))
    return np.float64(np.where(np.abs(alpha) < 1e-18, 0, alpha)), np.float64(sigma)


def row_times(sampler: Sampler, ts) -> np.ndarray:
    """The times of x after the rows: where the next evaluations are made, and the end."""
    return np.append(np.asarray(sampler.plan(ts).t)[1:], ts[-1])


def walk(sampler: Sampler, ts, model: Any, x, noise) -> tuple[np.ndarray, np.ndarray]:
    """The sampler, not compiled, with given noise: row i draws noise[i]. Returns x_0 and x after every row."""
    table = jnp.asarray(noise)
    with (
        jax.disable_jit(),
        mock.patch.object(jax.random, "fold_in", lambda key, index: index),
        mock.patch.object(jax.random, "normal", lambda index, shape, dtype: table[index].astype(dtype)),
    ):
        result, path = sampling_fn(sampler, ts, trace=state_x)(model, None, jnp.asarray(x))
    return np.asarray(result), np.asarray(path)


@pytree
class Knots:
    """A schedule known at some times only: with it as the name tag, all schedules share one compile.

    Attributes:
        ts: (N,), rising, with repetitions if need be.
    """

    ts: Any
    alphas: Any
    sigmas: Any
    t_max: Any

    def __call__(self, t):
        """The entries at the time t, which is one of ts."""
        i = jnp.searchsorted(self.ts, t)
        return self.alphas[i], self.sigmas[i]


def known_at_knots(sampler: Sampler, ts, trace=None) -> tuple[jax.tree_util.Partial, Knots]:
    """The sampling function, and its schedule at the times of its rows, under the name of `Knots`."""
    times = jnp.sort(jnp.asarray(sampler.plan(ts).t))
    alpha, sigma = (jnp.asarray(a) for a in calculus.amplitudes(sampler.schedule, np.asarray(times)))
    knots = Knots(times, alpha, sigma, jnp.asarray(ts[0], times.dtype))
    return sampling_fn(sampler._replace(schedule=knots), ts, trace), knots


@pytree
class Affine:
    """E[x_0 | x] on N(m, v), for x as coefficients on (1, the normal of x_T, noise of row 0, noise of row 1, ...)."""

    m: Any
    v: Any
    schedule: Any
    with_var: bool = static(default=False)

    def __call__(self, x, t) -> Posterior:
        """The coefficients of the posterior mean, and the posterior variance."""
        alpha, sigma = self.schedule(t)
        gain = alpha * self.v / (alpha**2 * self.v + sigma**2)
        mean = gain * x + (self.m - gain * alpha * self.m) * jnp.zeros_like(x).at[0].set(1.0)
        return Posterior(mean, sigma**2 * self.v / (alpha**2 * self.v + sigma**2) if self.with_var else 0.0)


@jax.jit
def _run_on_coefficients(sample: jax.tree_util.Partial, model: Affine, x: Any) -> Any:
    unit = lambda index, shape, dtype: jax.nn.one_hot(2 + index, shape[0], dtype=dtype)
    with (
        mock.patch.object(jax.random, "fold_in", lambda key, index: index),
        mock.patch.object(jax.random, "normal", unit),
    ):
        return sample(model, None, x)[1]


def laws(sampler: Sampler, ts, m, v, mean=None, var=None, with_var=False) -> tuple[np.ndarray, np.ndarray]:
    """(mean, variance) of x after every row, for data N(m, v) and a Gaussian x_T (default: the true marginal), exactly.

    The sampler is linear in x, E[x_0 | x] and its noise, and E[x_0 | x] in x: it is run on coefficients.
    """
    sample, knots = known_at_knots(sampler, ts, trace=_moments)
    alpha, sigma = amplitudes_of(sampler, ts[0])
    x = np.zeros(2 + len(jax.tree.leaves(sample.args[0])[0]))
    x[0] = alpha * m if mean is None else mean
    x[1] = np.sqrt(alpha**2 * v + sigma**2 if var is None else var)
    model = Affine(jnp.asarray(m), jnp.asarray(v), knots, with_var)
    means, variances = _run_on_coefficients(sample, model, jnp.asarray(x))
    return np.asarray(means), np.asarray(variances)


def _moments(state: Any) -> tuple[Any, Any]:
    x = state_x(state)
    return x[0], jnp.sum(x[1:] ** 2)


def amplitudes_of(sampler: Sampler, t) -> tuple[float, float]:
    """(alpha, sigma) of the sampler's schedule."""
    alpha, sigma = calculus.amplitudes(sampler.schedule, [t])
    return float(alpha[0]), float(sigma[0])


def state_x(state: Any) -> Any:
    """x of any sampler's state."""
    return getattr(state, "x", state)
