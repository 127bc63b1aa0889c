"""What the study and the fit share: targets, methods, grids, and errors against the exact probability flow."""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from sklearn.mixture import GaussianMixture

from diffjax import analytic, calculus, grids, runs, samplers
from diffjax.samplers import ancestral, base, deis, heun, multistep, pndm, principal, singlestep, table, trigflow, unipc
from diffjax.schedules import VP
from diffjax.types import Schedule

SCHEDULE = VP()
NFES = (5, 6, 8, 10, 20, 50)
EXACT = RING, MIXTURE, IDEAL = "mixture, 2-D", "mixture, 64-D", "digits, ideal denoiser"


def leaping(schedule: Schedule, n: int, sigma_data: float, power: float, t: float) -> np.ndarray:
    """A grid by angles whose first step leads to t: an eps-network says nothing of x_0 where there is hardly any."""
    ts = grids.angle(schedule, n, sigma_data=sigma_data, power=power)
    if n < 3 or ts[2] >= t:
        raise ValueError(f"The second of {n} steps does not begin at t = {t}.")
    return np.concatenate([ts[:1], [t], ts[2:]])


LEAPS: dict[str, Callable[[Schedule, int], np.ndarray]] = {  # for calibration alone: no published sampler has them
    f"angle {d} {p} from {t}": lambda s, n, d=d, p=p, t=t: leaping(s, n, d, p, t)
    for d, p, t in itertools.product((1.0, 1.4), (1.0, 1.25, 1.5), (0.8, 0.7))
}
LONGEST = 64  # rows: one compile serves every method of one history, every grid and every number of steps


class Target(NamedTuple):
    """A model whose flow is walked, the shape of an example, moments of its data, steps of the reference, starts."""

    title: str
    model: Any
    shape: tuple[int, ...]
    axes: principal.Axes
    reference_steps: int = 800
    starts: int = 64


class Method(NamedTuple):
    """A sampler, its evaluations per step of the grid, and whether it is one of the baselines to beat.

    Attributes:
        inner: the sampler of steps that do not begin the walk, where that is another one.
    """

    make: Callable[[Schedule], samplers.Sampler]
    per_step: int = 1
    baseline: bool = False
    inner: Callable[[Schedule], samplers.Sampler] | None = None


METHODS = {
    "DDIM": Method(ancestral.ddim),
    "Heun": Method(heun.edm, 2),
    "DPM-Solver-2": Method(lambda s: singlestep.dpm_solver(s, 2), 2),
    "DPM-Solver-3": Method(lambda s: singlestep.dpm_solver(s, 3), 3),
    "DPM-Solver++(2S)": Method(singlestep.dpmpp_2s, 2),
    "DPM-Solver++(2M)": Method(multistep.dpmpp_2m),
    "DPM-Solver++(3M)": Method(multistep.dpmpp_3m, baseline=True),
    "exponential Adams 2": Method(lambda s: multistep.adams(s, 2)),
    "exponential Adams 3": Method(lambda s: multistep.adams(s, 3)),
    "tAB-DEIS 2": Method(lambda s: deis.tab(s, 2), baseline=True),
    "tAB-DEIS 3": Method(lambda s: deis.tab(s, 3), baseline=True),
    "tAB-DEIS 4": Method(lambda s: deis.tab(s, 4), baseline=True),
    "LMS 4": Method(lambda s: deis.lms(s, 4)),
    "iPNDM 2": Method(lambda s: pndm.ipndm(s, 2), baseline=True),
    "iPNDM 3": Method(lambda s: pndm.ipndm(s, 3), baseline=True),
    "iPNDM 4": Method(lambda s: pndm.ipndm(s, 4), baseline=True),
    "UniPC-2": Method(lambda s: unipc.unipc(s, 2), baseline=True),
    "UniPC-3": Method(lambda s: unipc.unipc(s, 3), baseline=True),
    "TrigFlow Adams 2": Method(lambda s: trigflow.adams(s, 2)),
    "TrigFlow Adams 3": Method(lambda s: trigflow.adams(s, 3)),
}
GRIDS: dict[str, Callable[[Schedule, int], np.ndarray]] = {
    "uniform": lambda s, n: grids.uniform(s, n, t_min=1e-3),
    **{f"karras {rho} {t}": lambda s, n, rho=rho, t=t: grids.karras(s, n, rho=rho, t_min=t) for rho in (7, 12)
       for t in (1e-3, 1e-2)},
    **{f"log-SNR {t}": lambda s, n, t=t: grids.log_snr(s, n, t_min=t) for t in (1e-3, 5e-3, 1e-2)},
    **{f"angle {d} {p}": lambda s, n, d=d, p=p: grids.angle(s, n, sigma_data=d, power=p)
       for d, p in itertools.product((0.35, 0.7, 1.0), (1.0, 1.25, 1.5, 2.0))},
}  # fmt: skip


ALONG = " along axes"  # after the name of a sampler whose calibrated rows then have numbers for each axis


def methods(axes: Any) -> dict[str, Method]:
    """All of them, for data of these moments."""
    along = lambda p, free: lambda s: principal.adams(s, axes, p, free)
    ours = {f"principal Adams {p}": Method(along(p, True), inner=along(p, False)) for p in (1, 2, 3)}
    return METHODS | ours | {f"principal Adams {p}, asked at the start": Method(along(p, False)) for p in (2,)}


def target(name: str, digits: np.ndarray) -> Target:
    """One of EXACT, or the network in a workdir; the ideal denoiser is that of the digits (n, 64) in [-1, 1]."""
    if name == IDEAL:
        model = analytic.empirical(digits[:600]).denoiser(SCHEDULE)
        return Target(name, model, (64,), principal.Axes.of(digits[:600]), 400, 512)
    if name in (RING, MIXTURE):
        turn = np.arange(8) * np.pi / 4
        ring = lambda: analytic.gaussian_mixture(np.ones(8) / 8, np.stack([np.cos(turn), np.sin(turn)], 1), [0.02] * 8)
        of = ring() if name == RING else random_mixture(5, 64)
        return Target(name, of.denoiser(SCHEDULE), of.shape, axes_of(of))
    return network_target(name)


def axes_of(mixture: analytic.GaussianMixture) -> principal.Axes:
    """Computes the moments of a mixture: what is known of x_0 where alpha = 0."""
    x = jnp.zeros(mixture.shape)
    variances, basis = np.linalg.eigh(mixture.covariance(x, 0.0, 1.0))
    return principal.Axes(np.asarray(mixture.posterior(x, 0.0, 1.0).mean) @ basis, variances, basis)


def network_target(workdir: str) -> Target:
    """A trained digits network, by what it predicts: what `python -m diffjax.main --config=configs/vpsde.py` leaves."""
    run = runs.open(workdir)
    if not calculus.same(run.denoiser().schedule, SCHEDULE):
        raise ValueError(f"The study walks {SCHEDULE}, but {workdir} has {run.denoiser().schedule}.")
    axes = principal.Axes.of(run.data.train.gather(np.arange(len(run.data.train))).x)
    predicts = type(run.method.parts.target).__name__
    return Target(f"digits, {predicts}-network", run.denoiser(), run.data.shape, axes, 300, 16)


def random_mixture(seed: int, d: int, components: int = 10) -> analytic.GaussianMixture:
    """Components with full covariances, eigenvalues from 0.05^2 to 0.5^2, means of standard deviation 0.5."""
    rng = np.random.default_rng(seed)
    bases = [np.linalg.qr(rng.standard_normal((d, d)))[0] for _ in range(components)]
    spectra = np.exp(rng.uniform(np.log(0.05**2), np.log(0.5**2), (components, d)))
    covariances = [basis @ np.diag(values) @ basis.T for basis, values in zip(bases, spectra)]
    weights, means = rng.dirichlet(np.full(components, 3.0)), 0.5 * rng.standard_normal((components, d))
    return analytic.gaussian_mixture(weights, means, np.stack(covariances))


def surrogate(data: np.ndarray, components: int, seed: int) -> analytic.GaussianMixture:
    """A Gaussian mixture fitted to data (n, d) by expectation maximisation: cheap, exact, of the data's shape."""
    fit = GaussianMixture(components, reg_covar=2e-3, random_state=seed, max_iter=50).fit(data)
    return analytic.gaussian_mixture(fit.weights_, fit.means_, fit.covariances_)


def starts(seed: int, n: int, shape: tuple[int, ...]) -> jax.Array:
    """x_T, (n, *shape)."""
    sigma = float(SCHEDULE(SCHEDULE.t_max)[1])
    return sigma * jax.random.normal(jax.random.key(seed), (n, *shape))


@jax.jit
def run(sample: Partial, model: Any, x: jax.Array) -> jax.Array:
    """x_0 of a deterministic walk, for a batch."""
    return jax.vmap(lambda x: sample(model, jax.random.key(0), x))(x)


def reference(target: Target, x: jax.Array, steps: int | None = None, t: float = 0.0) -> jax.Array:
    """The probability flow down to t, by Adams(3) in many steps, each of its own: a network is slow in XLA's loops."""
    sampler, ts = multistep.adams(SCHEDULE, 3), grids.karras(SCHEDULE, steps or target.reference_steps, t_min=1e-5)
    rows = base.rows_of(sampler, np.append(ts[ts > t * (1 + 1e-9)], t) if t else ts)
    state = jax.vmap(sampler.init)(x)
    for i in range(len(rows.t)):
        state = _one_step(target.model, state, jax.tree.map(lambda a, i=i: jnp.asarray(a[i], x.dtype), rows))
    return state.x


@jax.jit
def _one_step(model: Any, state: Any, row: Any) -> Any:
    return jax.vmap(lambda state: table.step(model, jax.random.key(0), state, row))(state)


def walk(method: Method, grid: Callable, nfe: int) -> Partial | None:
    """The method on the longest such grid of at most `nfe` evaluations, padded; None if there is none."""
    found = longest(method, grid, nfe)
    return None if found is None else samplers.sampling_fn(method.make(SCHEDULE), found, max_rows=LONGEST)


def longest(method: Method, grid: Callable, nfe: int) -> np.ndarray | None:
    """The longest such grid on which the method makes at most `nfe` evaluations; None if there is none."""
    for n in range(nfe // method.per_step + 1, 0, -1):
        try:
            ts = grid(SCHEDULE, n)
            if len(jax.tree.leaves(base.rows_of(method.make(SCHEDULE), ts))[0]) <= nfe:
                return ts
        except ValueError:  # a grid or a sampler that needs more steps
            continue
    return None


def error(x: jax.Array, exact: jax.Array) -> float:
    """Root mean square, in units of the standard deviation of `exact`."""
    return float(jnp.sqrt(jnp.mean((x - exact) ** 2) / jnp.mean(jnp.var(exact, axis=0))))


def from_rows(rows: table.Row) -> samplers.Sampler:
    """The sampler that walks along given rows, whatever grid it is given: fitted coefficients."""
    return samplers.Sampler(table.step, lambda ts: rows, table.Init(rows.ys.shape[1]), table.final, SCHEDULE)
