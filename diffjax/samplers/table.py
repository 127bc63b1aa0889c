"""Samplers written once, as in their papers, on linear forms: their tables of coefficients fall out.

Most methods use x, what the model said so far and normal noise linearly. At planning such a method (a `Program`) is run
with linear forms in place of arrays: vectors of coefficients on x_T, on the evaluations y_0, y_1, ... and on the noises
z_0, z_1, ... Between one evaluation and the next, x is then

    x_{i+1} = a_i x_i + sum_k c_ik y_{i-k} + b_i z_i,

one row of `Row`, whatever the method: multistep, single-step, predictor-corrector or stochastic. What is kept of an
evaluation is the data prediction E[x_0 | x], the noise prediction (x - alpha E[x_0 | x]) / sigma, or whatever else the
method extrapolates: then a few of the last ones are enough, which planning verifies.

Example: DPM-Solver++(2M) on steps of equal length, two of them. Its forms are coefficients on (x_T, y_0, y_1):

    def program(walk):
        x, old = walk.start, None                        # x = (1, 0, 0)
        for now, then in pairwise(walk.levels):
            new = walk.evaluate(x, now)                  # (0, 1, 0), then (0, 0, 1)
            m = new if old is None else 1.5 * new - 0.5 * old
            x, old = ddim_of_mean(x, m, now, then), new  # a_i x + c_i m: (a_0, c_0, 0), then
        return x                                         # (a_1 a_0, a_1 c_0 - c_1 / 2, 3 c_1 / 2)

Row 1 is what led from the one x to the other: a = a_1 a_0 / a_0, and what is left of x_2 - a x_1 are the weights
(3 c_1 / 2, -c_1 / 2) of (y_1, y_0). `sampler(schedule, program, history=2, order=2)` is the sampler.

Weights that extrapolate far are large and cancel: what the model says wrongly, and float32's rounding, is multiplied
by as much. `amplification` measures that; a plan beyond `AMPLIFIES` warns (`AmplifyingPlan`). For the exact denoiser of
a mixture of standard deviation 1.02, VP, the largest of a plan and the deviation of its samples were

    adams(3, tau=1)     uniform, 10 / 20 / 50 steps: 64, 61, 39 and 7.3, 3.2, 1.35     log_snr, 20: below 8 and 1.0
    adams(3)            uniform, 10 / 20 / 50 steps: 52, 47, 28 and 2.6, 1.4, 1.02     log_snr, 20: below 8 and 1.0
    lms(4)              log_snr, 50 / 200 / 1000 steps: below 8, 34, 4000, and up to 8e-6, 3.5e-4, 2.4e-2 between
                        float32 and float64, N^3 as its last step reaches over so many spacings of its nodes

On log_snr, karras and angle grids of 10 to 50 steps all samplers of this module stay below 30, but trigflow of order 4
in 10 steps of the first two, and `pndm` on angle. Below 30 the worst deviation was 1.15 (dpmpp_3m_sde, uniform, 50
steps), equal steps in EDM's sigma apart, which serve no sampler.
"""

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffjax import grids, host
from diffjax.calculus import amplitudes_at, need_scalar, time_of
from diffjax.samplers.base import Sampler, starts_too_early
from diffjax.types import Array, Denoiser, Key, Schedule

AMPLIFIES = 30.0  # the bound on `amplification` from which a plan warns


class AmplifyingPlan(UserWarning):
    """A plan whose weights amplify beyond `AMPLIFIES` what the model says wrongly; it names a grid to take instead."""


Form = Any  # np.ndarray: coefficients on (x_T, y_0, y_1, ..., z_0, z_1, ...)


class Level(NamedTuple):
    """A time of the schedule with its amplitudes, in float64."""

    t: float
    alpha: float
    sigma: float

    @property
    def ratio(self) -> float:
        """n = sigma / alpha, the noise-to-signal ratio; infinite where alpha = 0."""
        return self.sigma / self.alpha if self.alpha else np.inf

    @property
    def lam(self) -> float:
        """lambda = log(alpha / sigma), half the log-SNR; infinite where one of them is 0."""
        return -np.log(self.ratio) if self.ratio else np.inf


class Row(NamedTuple):
    """The coefficients of one evaluation and of the linear update that follows it."""

    t: Any  # where the model is evaluated
    y_x: Any  # y = y_x x + y_mean E[x_0 | x]
    y_mean: Any
    x: Any  # a
    ys: Any  # (history,) c, newest first
    noise: Any  # b: the standard deviation of the noise that is added


class State(NamedTuple):
    """What the walk remembers: x, and what is kept of the last evaluations, newest first."""

    x: Array
    ys: Array


class Walk:
    """The planner that a program is run with: the levels of the grid, and the model and the noise as linear forms.

    Attributes:
        levels: one for each time of the grid, N + 1.
        start: x_T, as a form.
    """

    def __init__(self, schedule: Schedule, ts: np.ndarray, rows: int, random: bool):
        self.schedule, self._rows, self._size = schedule, rows, 1 + rows * (2 if random else 1)
        self.levels = self.levels_of(ts)
        self.start = self._unit(0)
        self._at: list[Level] = []
        self._x: list[Form] = []

    def evaluate(self, x: Form, level: Level) -> Form:
        """Evaluates the model at x; returns what the method keeps of that, a new unit vector.

        Raises:
            ValueError: if these are more evaluations than the program announced.
        """
        if len(self._at) >= self._rows:
            raise ValueError(f"The program makes more than the {self._rows} evaluations that it announced.")
        self._at.append(level)
        self._x.append(x)
        return self._unit(len(self._at))

    def normal(self) -> Form:
        """Draws the standard normal noise of the row of the last evaluation, a unit vector."""
        return self._unit(self._rows + len(self._at))

    def levels_at(self, lams: Any, a_step: int = 1) -> list[Level]:
        """Looks up the levels with these lambdas (n,), all in one call of the schedule.

        Args:
            a_step: how many there are for each step of the grid: with it, n up to 64 steps share one compile.

        Raises:
            ValueError: if the schedule has no inverse, or does not reach one of them.
        """
        if not len(lams):
            return []
        ts = host.along(time_of, self.schedule, 2 * np.asarray(lams), a_step * host.LENGTH)
        levels, end = self.levels_of(ts, a_step), self.schedule.t_max
        for lam, level in zip(lams, levels):
            if level.t > float(end) * (1 + 1e-6) or not np.isclose(level.lam, lam, rtol=1e-6, atol=1e-6):
                raise ValueError(
                    f"{type(self.schedule).__name__} does not reach log-SNR {2 * lam:.6g}, a node of the sampler."
                )
        return levels

    def levels_of(self, ts: Any, a_step: int = 1) -> list[Level]:
        """Looks up the levels of these times (n,), all in one call of the schedule; a_step: as for `levels_at`."""
        found = host.along(amplitudes_at, self.schedule, ts, a_step * host.LENGTH)
        if found[0].ndim > 1:
            need_scalar(self.schedule, "A table of coefficients")
        return [Level(*map(float, level)) for level in zip(ts, *found)]

    def level_at(self, lam: Any) -> Level:
        """Looks up the level with this lambda; `levels_at` is one call for many."""
        return self.levels_at([lam])[0]

    def level_of(self, t: float) -> Level:
        """Looks up the level of a time; `levels_of` is one call for many."""
        return self.levels_of([t])[0]

    def table(self, end: Form, history: int, keeps: "Prediction") -> Row:
        """Reads off the rows of the walk that has arrived at the form `end`.

        Raises:
            ValueError: if a row needs more than x, its own noise and the last `history` evaluations.
        """
        count = len(self._at)
        at, x = np.asarray(self._at), np.stack([*self._x, end])
        # a_i is the ratio, after the row over before it, of the heaviest coefficient on what no row adds anew: x_T and
        # earlier noises. Not always x_T's: that one is 0 once x has forgotten x_T, as it does where alpha is 0.
        carried = x[:, np.r_[0, 1 + self._rows : self._size]]
        heaviest = np.argmax(np.abs(carried[:-1]), 1)
        scale = carried[np.arange(1, count + 1), heaviest] / carried[np.arange(count), heaviest]
        step = x[1:] - scale[:, None] * x[:-1]  # what each row adds: recent evaluations and its own noise
        noise, ys, i = np.zeros(count), np.zeros((count, history)), np.arange(count)
        for k in range(min(history, count)):
            ys[k:, k] = step[i[k:], 1 + i[k:] - k]
            step[i[k:], 1 + i[k:] - k] = 0.0
        if self._size > 1 + self._rows:
            noise = step[i, 1 + self._rows + i]
            step[i, 1 + self._rows + i] = 0.0
        if np.any(np.abs(step) > 1e-9 * np.abs(x).max()):
            raise ValueError(
                f"A row of the program needs more than x, its own noise and the last {history} evaluations; "
                "announce a longer history, or write the step without an earlier x."
            )
        y_x, y_mean = np.transpose([keeps(level) for level in self._at])
        return Row(at[:, 0], y_x, y_mean, scale, ys, noise)

    @property
    def walked(self) -> list[Level]:
        """The levels of all evaluations so far, and that where the walk ends."""
        return [*self._at, self.levels[-1]]

    def _unit(self, i: int) -> Form:
        form = np.zeros(self._size)
        form[i] = 1.0
        return form


Program = Callable[[Walk], Form]  # walks from `walk.start` to the x it returns
Prediction = Callable[[Level], tuple[float, float]]  # (y_x, y_mean) of what is kept of an evaluation there


def mean(level: Level) -> tuple[float, float]:
    """Keeps the data prediction: y = E[x_0 | x]."""
    return 0.0, 1.0


def eps(level: Level) -> tuple[float, float]:
    """Keeps the noise prediction: y = (x - alpha E[x_0 | x]) / sigma."""
    return 1 / level.sigma, -level.alpha / level.sigma


def ddim_of_mean(x: Form, mean: Form, now: Level, then: Level) -> Form:
    """Takes DDIM's step with a data prediction: exact where that is constant."""
    return then.sigma / now.sigma * x + (then.alpha - now.alpha * then.sigma / now.sigma) * mean


def ddim_of_eps(x: Form, eps: Form, now: Level, then: Level) -> Form:
    """Takes DDIM's step with a noise prediction: exact where that is constant."""
    return then.alpha / now.alpha * x + (then.sigma - now.sigma * then.alpha / now.alpha) * eps  # (ddim.4)


def sampler(
    schedule: Schedule,
    program: Program,
    history: int,
    *,
    order: int,
    keeps: Prediction = mean,
    random: bool = False,
    evaluations: Callable[[int], int] = lambda n: n,
) -> Sampler:
    """Makes the sampler of a program.

    Args:
        program: the method, as in the module's example.
        history: how many evaluations a row uses, the newest included.
        order: the interior order of the method (`Sampler.order`).
        keeps: what is kept of an evaluation: `mean`, `eps` or another combination of x and E[x_0 | x].
        random: whether the program draws noise.
        evaluations: number of grid steps -> a bound on the evaluations.

    Raises:
        ValueError: (at planning) if the grid starts where alpha is 0 and the noise prediction is extrapolated.
    """

    def walked(ts: np.ndarray) -> tuple[Row, np.ndarray]:
        walk = Walk(schedule, ts, evaluations(len(ts) - 1), random)
        if keeps(walk.levels[0])[1] == 0:
            raise starts_too_early(
                f"At t = {ts[0]:g} alpha is 0: the noise prediction, which this sampler extrapolates, loses x_0 there",
                "use a multistep, unipc or ancestral sampler",
            )
        rows = walk.table(program(walk), history, keeps)
        return rows, amplification(rows, walk.walked)

    def plan(ts: np.ndarray) -> Row:
        rows, factors = walked(ts)
        if np.max(factors) > AMPLIFIES:
            _warn(schedule, ts, rows, factors, lambda ts: float(np.max(walked(ts)[1])))
        return rows

    return Sampler(noisy_step if random else step, plan, Init(history), final, schedule, order)


def amplification(rows: Row, walked: list[Level]) -> np.ndarray:
    """Measures by how much each row (N,) amplifies errors of its evaluations, in units of their size.

    sum_k |c_k| s_k over |sum_k c_k s_k|, or over the size of the x that the row leads to where that is larger: 1 where
    nothing is extrapolated. s is the size of y, and x's, for data of mean 0 and variance 1.

    Args:
        walked: the levels of the rows, and that of the end, N + 1.
    """
    _, alpha, sigma = np.transpose(walked)
    y_size = np.hypot(rows.y_x * alpha[:-1] + rows.y_mean, rows.y_x * sigma[:-1])
    sizes, sums = np.zeros((2, len(rows.t)))
    for k in range(min(rows.ys.shape[1], len(rows.t))):
        terms = rows.ys[k:, k] * y_size[: len(rows.t) - k]
        sums[k:] += terms
        sizes[k:] += np.abs(terms)
    return sizes / np.maximum(np.maximum(np.abs(sums), np.hypot(alpha, sigma)[1:]), np.finfo(float).tiny)


def _warn(schedule: Schedule, ts: np.ndarray, rows: Row, factors: np.ndarray, largest: Callable) -> None:
    i = int(np.argmax(factors))
    start, end, steps = rows.t[i], np.append(rows.t, ts[-1])[i + 1], len(ts) - 1
    ends = dict(t_max=float(ts[0]))
    makers = {"log_snr": ends | dict(zero=False, t_min=float(ts[-1])), "karras": ends | dict(zero=False)}
    makers["karras"]["t_min"] = float(ts[-1])
    if ts[-1] == 0:
        makers = {"log_snr": ends, "karras": ends, "angle": ends}
    found = {}
    for name, options in makers.items():
        try:
            found[name] = largest(getattr(grids, name)(schedule, steps, **options))
        except ValueError:  # this grid or this sampler is not for that schedule, or that start
            continue
    best = min(found, key=lambda name: found[name], default=None)
    instead = "take a lower order, or more steps"
    if best is not None and found[best] < AMPLIFIES:
        instead = f"take grids.{best}, where it is {found[best]:.2g} in as many steps, or a lower order"
    warnings.warn(
        f"The plan amplifies: from t = {start:.4g} to {end:.4g} the weights of the last evaluations are together "
        f"{factors[i]:.3g} times what they add up to (bound {AMPLIFIES:g}), and so are the model's errors; {instead}.",
        AmplifyingPlan,
        stacklevel=2,
    )


class Init(NamedTuple):
    """The function x_T -> state, with room for `history` evaluations."""

    history: int

    def __call__(self, x: Array) -> State:
        return State(x, jnp.zeros((self.history, *x.shape), x.dtype))


def step(model: Denoiser, key: Key, state: State, row: Row) -> State:
    """Walks along one row without noise: one evaluation, and the update that follows."""
    y = row.y_x * state.x + row.y_mean * model(state.x, row.t).mean
    ys = jnp.concatenate([y[None], state.ys[:-1]])
    return State(row.x * state.x + jnp.tensordot(row.ys, ys, 1, precision="highest"), ys)


def noisy_step(model: Denoiser, key: Key, state: State, row: Row) -> State:
    """Walks along one row, `step`, and adds the row's noise."""
    x, ys = step(model, key, state, row)
    return State(x + row.noise * jax.random.normal(key, x.shape, x.dtype), ys)


def final(model: Denoiser, state: State) -> Array:
    """Reads x_0 off the last state: it is x."""
    return state.x
