"""Samplers written once, as in their papers, on linear forms: their tables of coefficients fall out.

Most methods use x, what the model said so far and normal noise linearly. At planning such a method (a `Program`) is run
with linear forms in place of arrays: vectors of coefficients on x_T, on the evaluations y_0, y_1, ... and on the noises
z_0, z_1, ... Between one evaluation and the next, x is then

    x_{i+1} = a_i x_i + sum_k c_ik y_{i-k} + b_i z_i,

one row of `Row`, whatever the method: multistep, single-step, predictor-corrector or stochastic. What is kept of an
evaluation is the data prediction E[x_0 | x], the noise prediction (x - alpha E[x_0 | x]) / sigma, or whatever else the
method extrapolates: then a few of the last ones are enough, which planning verifies.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffjax import host
from diffjax.calculus import amplitudes, time_of
from diffjax.samplers.base import Sampler
from diffjax.types import Array, Denoiser, Key, Schedule

Form = Any  # np.ndarray: coefficients on (x_T, y_0, y_1, ..., z_0, z_1, ...)


class Level(NamedTuple):
    """A time and its amplitudes, in float64."""

    t: float
    alpha: float
    sigma: float

    @property
    def noise(self) -> float:
        """n = sigma / alpha; infinite where alpha = 0."""
        return self.sigma / self.alpha if self.alpha else np.inf

    @property
    def lam(self) -> float:
        """lambda = log(alpha / sigma), half the log-SNR; infinite where one of them is 0."""
        return -np.log(self.noise) if self.noise else np.inf


class Row(NamedTuple):
    """One evaluation, and the linear update that follows it."""

    t: Any
    y_x: Any  # y = y_x x + y_mean E[x_0 | x]
    y_mean: Any
    x: Any  # a
    ys: Any  # (history,) c, newest first
    noise: Any  # b


class State(NamedTuple):
    """Where x is, and the last evaluations, newest first."""

    x: Array
    ys: Array


class Walk:
    """What a program sees: the levels of the grid, and the model and the noise as linear forms.

    Attributes:
        levels: of the grid's times, N + 1 of them.
        start: x_T.
    """

    def __init__(self, schedule: Schedule, ts: np.ndarray, rows: int, random: bool):
        self.schedule, self._rows, self._size = schedule, rows, 1 + rows * (2 if random else 1)
        alpha, sigma = amplitudes(schedule, ts)
        self.levels = [Level(*map(float, level)) for level in zip(ts, alpha, sigma)]
        self.start = self._unit(0)
        self._at: list[Level] = []
        self._x: list[Form] = []

    def evaluate(self, x: Form, level: Level) -> Form:
        """The model's data or noise prediction at x, as the method keeps it: a new unit vector."""
        if len(self._at) >= self._rows:
            raise ValueError(f"The program makes more than the {self._rows} evaluations that it announced.")
        self._at.append(level)
        self._x.append(x)
        return self._unit(len(self._at))

    def normal(self) -> Form:
        """The standard normal noise of the row of the last evaluation."""
        return self._unit(self._rows + len(self._at))

    def level_at(self, lam: Any) -> Level:
        """The level with this lambda.

        Raises:
            ValueError: if the schedule has no inverse, or does not reach that far.
        """
        t = host.float64(lambda schedule, value: time_of(schedule, value), self.schedule, np.float64(2 * lam))
        level = self.level_of(float(t))
        if level.t > float(self.schedule.t_max) * (1 + 1e-6) or not np.isclose(level.lam, lam, rtol=1e-6, atol=1e-6):
            raise ValueError(
                f"{type(self.schedule).__name__} does not reach log-SNR {2 * lam:.6g}, a node of the sampler."
            )
        return level

    def level_of(self, t: float) -> Level:
        """The level of a time."""
        alpha, sigma = host.float64(lambda schedule, t: schedule(t), self.schedule, np.float64(t))
        return Level(t, float(alpha), float(sigma))

    def table(self, end: Form, history: int, predicts: "Prediction") -> Row:
        """The rows of the walk that has arrived at `end`."""
        count = len(self._at)
        at, x = np.asarray(self._at), np.stack([*self._x, end])
        # a, by what x_T or an earlier noise still weighs: x may forget x_T, as at once where alpha is 0.
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
        y_x, y_mean = np.transpose([predicts(level) for level in self._at])
        return Row(at[:, 0], y_x, y_mean, scale, ys, noise)

    def _unit(self, i: int) -> Form:
        form = np.zeros(self._size)
        form[i] = 1.0
        return form


Program = Callable[[Walk], Form]  # walks from `walk.start` to the x it returns
Prediction = Callable[[Level], tuple[float, float]]  # (y_x, y_mean) of what is kept of an evaluation there


def data(level: Level) -> tuple[float, float]:
    """y = E[x_0 | x]."""
    return 0.0, 1.0


def noise(level: Level) -> tuple[float, float]:
    """y = (x - alpha E[x_0 | x]) / sigma: eps."""
    return 1 / level.sigma, -level.alpha / level.sigma


def ddim_of_data(x: Form, mean: Form, now: Level, then: Level) -> Form:
    """DDIM: the exact step for a constant data prediction."""
    return then.sigma / now.sigma * x + (then.alpha - now.alpha * then.sigma / now.sigma) * mean


def ddim_of_noise(x: Form, eps: Form, now: Level, then: Level) -> Form:
    """DDIM: the exact step for a constant noise prediction."""
    return then.alpha / now.alpha * x + (then.sigma - now.sigma * then.alpha / now.alpha) * eps


def sampler(
    schedule: Schedule,
    program: Program,
    history: int,
    *,
    predicts: Prediction = data,
    random: bool = False,
    evaluations: Callable[[int], int] = lambda n: n,
) -> Sampler:
    """The sampler of a program.

    Args:
        history: how many evaluations a row uses, the newest included.
        predicts: what is kept of an evaluation: `data`, `noise` or another combination of x and E[x_0 | x].
        random: whether the program draws noise.
        evaluations: number of grid steps -> a bound on the evaluations.

    Raises:
        ValueError: (at planning) if the grid starts where alpha is 0 and the noise prediction is extrapolated.
    """

    def plan(ts: np.ndarray) -> Row:
        walk = Walk(schedule, ts, evaluations(len(ts) - 1), random)
        if predicts(walk.levels[0])[1] == 0:
            raise ValueError(
                f"At t = {ts[0]:g} alpha is 0: the noise prediction, which this sampler extrapolates, loses x_0 there; "
                "start the grid below it (t_max), or use a multistep, unipc or ancestral sampler."
            )
        return walk.table(program(walk), history, predicts)

    return Sampler(noisy_step if random else step, plan, Init(history), final, schedule)


class Init(NamedTuple):
    """x_T -> state, with room for `history` evaluations."""

    history: int

    def __call__(self, x: Array) -> State:
        return State(x, jnp.zeros((self.history, *x.shape), x.dtype))


def step(model: Denoiser, key: Key, state: State, row: Row) -> State:
    """One row without noise."""
    y = row.y_x * state.x + row.y_mean * model(state.x, row.t).mean
    ys = jnp.concatenate([y[None], state.ys[:-1]])
    return State(row.x * state.x + jnp.tensordot(row.ys, ys, 1), ys)


def noisy_step(model: Denoiser, key: Key, state: State, row: Row) -> State:
    """One row with noise."""
    x, ys = step(model, key, state, row)
    return State(x + row.noise * jax.random.normal(key, x.shape, x.dtype), ys)


def final(model: Denoiser, state: State) -> Array:
    """x_0 is x."""
    return state.x
