"""Time grids: host NumPy, float64, strictly decreasing, n steps = n + 1 times, from noise to data.

Every grid has the form `grid(schedule, n, ...)`. With `zero` (the default) the last step goes to t = 0 itself, where a
sampler returns the denoiser's mean; without it the grid ends at `t_min`. The next time is always the next entry of
the grid, never a stride subtracted from the present one.
"""

import re
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np

from diffjax import calculus, host, schedules
from diffjax.calibrated import times as calibrated
from diffjax.types import Derived, Discrete, Schedule

__all__ = [  # what a config may name
    "angle",
    "calibrated",
    "counts",
    "iddpm",
    "karras",
    "ladder",
    "leading",
    "linspace",
    "log_snr",
    "of_base",
    "pinned",
    "quadratic",
    "rounded",
    "sections",
    "trailing",
    "uniform",
    "ve",
    "vp",
]


MOST_STEPS = 100_000  # 25 times the longest published chain; plans are made step by step


def uniform(schedule: Schedule, n: int, *, t_max: float | None = None, t_min: float = 1e-3, zero: bool = True):
    """Makes equal steps in t (Song et al. 2021: t_min = 1e-3 for VP, 1e-5 for VE)."""
    return _grid(schedule, n, t_max, t_min, zero, lambda u, a, b: a + u * (b - a))  # (grids.1)


def ladder(schedule: Schedule, n: int):
    """Makes n noise levels, so n - 1 steps: even in t from t_max to 0, both included. For VE a geometric ladder (NCSN).

    Raises:
        ValueError: unless n is an integer >= 2.
    """
    _check_steps(n, "The number of noise levels", 2)
    return uniform(schedule, n - 1, t_min=0.0)


def karras(
    schedule: Schedule, n: int, *, rho: float = 7.0, t_max: float | None = None, t_min: float = 2e-3, zero: bool = True
):
    """Makes equal steps in (sigma / alpha)^(1/rho) (Karras et al. 2022, eq. 5); EDM's sigma is t itself."""

    host.check_positive("rho", rho, " (Karras et al.: 7)")

    def warp(u, a, b):
        first, last = (float(level) ** (1 / rho) for level in _levels(schedule, [a, b]))
        return _time_of_log_snr(schedule, -2 * rho * np.log(first + u * (last - first)))  # (grids.2)

    return _grid(schedule, n, t_max, t_min, zero, warp)


def log_snr(schedule: Schedule, n: int, *, t_max: float | None = None, t_min: float = 1e-3, zero: bool = True):
    """Makes equal steps in log-SNR (Lu et al. 2022, section 3.4)."""

    def warp(u, a, b):
        first, last = (-2 * np.log(float(level)) for level in _levels(schedule, [a, b]))
        return _time_of_log_snr(schedule, first + u * (last - first))  # (grids.3)

    return _grid(schedule, n, t_max, t_min, zero, warp)


def angle(
    schedule: Schedule, n: int, *, sigma_data: float = 0.5, power: float = 1.25, t_max: float | None = None
) -> np.ndarray:
    """Steps in phi^(1/power), phi = arctan(sigma / (alpha sigma_data)): evenly turning TrigFlow at power 1; ends at 0.

    Between the evenness of `karras` and of `log_snr`, without a t_min to choose: phi runs to 0 itself, or to what it is
    at t = 0 where data carries noise. It may start where alpha is 0: phi is pi / 2 there.
    """
    host.check_positive("sigma_data", sigma_data)
    host.check_positive("power", power)

    def warp(u, a, b):
        first, last = _angles(schedule, [a, 0.0], sigma_data)
        u = u[:-1]
        noise = sigma_data * np.tan(first * (1 - u + u * (last / first) ** (1 / power)) ** power)  # (grids.4)
        return np.append(_time_of_log_snr(schedule, -2 * np.log(noise)), 0.0)

    return _grid(schedule, n, t_max, 0.0, True, warp)


def quadratic(schedule: Schedule, n: int, *, steps: int = 1000, fraction: float = 0.8):
    """DDIM's quadratic sub-sequence of a chain of `steps` (Song et al. 2020, appendix D.2), without its duplicates.

    The published rule repeats small indices (13 times at n = 200): a repeat moves on to the next free index.
    It starts at `fraction` of the chain, as published.
    """
    _check_chain(n, steps)
    if not 0 < fraction < 1:
        raise ValueError(f"fraction is {fraction}, expected it between 0 and 1, both excluded (published: 0.8).")
    roots = np.linspace(0, np.sqrt(fraction * steps), n) if n > 1 else np.sqrt([fraction * steps])
    index = (roots**2).astype(int)  # (indices.5)
    for i in range(1, n):
        index[i] = max(index[i], index[i - 1] + 1)
    return _chain_times(schedule, index, steps)


def leading(schedule: Schedule, n: int, *, steps: int = 1000):
    """Takes every (steps // n)-th index, from 0 up: it never starts at the noisiest step (DDIM, kexue's ddim.py)."""
    _check_chain(n, steps)
    return _chain_times(schedule, np.arange(n) * (steps // n), steps)  # (indices.3)


def trailing(schedule: Schedule, n: int, *, steps: int = 1000):
    """Takes every (steps / n)-th index, from the noisiest down (Lin et al. 2024, table 2)."""
    _check_chain(n, steps)
    # (indices.2)
    return _chain_times(schedule, np.round(steps - np.arange(n)[::-1] * steps / n).astype(int) - 1, steps)


def linspace(schedule: Schedule, n: int, *, steps: int = 1000):
    """Takes n indices evenly from 0 to steps - 1, both ends included (Nichol & Dhariwal 2021)."""
    _check_chain(n, steps)
    index = np.linspace(0, steps - 1, n) if n > 1 else np.asarray([steps - 1.0])  # (indices.4)
    return _chain_times(schedule, np.round(index).astype(int), steps)


def vp(schedule: Schedule, n: int, *, beta_d: float = 19.9, beta_min: float = 0.1, t_min: float = 1e-3):
    """Makes the noise levels of VP at equal steps in its time (Song et al. 2021), on any schedule; then 0.

    Column VP of Karras et al. 2022, table 1: sigma^2 = exp(beta_d t^2 / 2 + beta_min t) - 1 at t from 1 to t_min.
    """
    source = schedules.VP(beta_min, beta_min + beta_d)
    return at_levels(schedule, _levels(source, uniform(source, n, t_min=t_min)[:-1]))


def ve(schedule: Schedule, n: int, *, sigma_max: float = 100.0, sigma_min: float = 0.02):
    """Makes noise levels in geometric progression, those of VE (Song et al. 2021), on any schedule; then 0.

    Column VE of Karras et al. 2022, table 1: sigma^2 = sigma_max^2 (sigma_min^2 / sigma_max^2)^(i / (n - 1)).
    """
    _check_steps(n)
    if not 0 < sigma_min < sigma_max < np.inf:
        raise ValueError(
            f"Got sigma_min = {sigma_min} and sigma_max = {sigma_max}, expected 0 < sigma_min < sigma_max."
        )
    return at_levels(schedule, sigma_max * (sigma_min / sigma_max) ** (np.arange(n) / max(n - 1, 1)))  # (indices.6)


def iddpm(
    schedule: Schedule,
    n: int,
    *,
    steps: int = 1000,
    s: float = 0.008,
    max_beta: float = 0.999,
    sigma_max: float = 81.0,
    sigma_min: float = 0.002,
):
    """Takes n of the noise levels of iDDPM's chain (Nichol & Dhariwal 2021), evenly by index, on any schedule; then 0.

    Column iDDPM of Karras et al. 2022, table 1, whose recursion for u_j (M = steps, C_1 = 1 - max_beta, C_2 = s) gives
    the ratios sigma / alpha of the clipped cosine table. The levels between sigma_min and sigma_max are taken.
    """
    _check_chain(n, steps)
    levels = chain_levels(schedules.Tabulated.cosine(steps, s, max_beta))[::-1]
    levels = levels[(levels >= sigma_min) & (levels <= sigma_max)]
    if len(levels) < n:
        raise ValueError(f"Got n = {n} steps out of {len(levels)} levels between {sigma_min} and {sigma_max}.")
    index = np.round((len(levels) - 1) / max(n - 1, 1) * np.arange(n)).astype(int)
    return at_levels(schedule, levels[index])


def rounded(schedule: Schedule, n: int, *, base: str = "karras", **options):
    """Makes the grid `base`, each of its times but 0 moved to where the schedule's inverse puts it.

    For a `schedules.Rounded` schedule that is the nearest level that a discrete network knows.
    """
    if base not in BASES:
        raise ValueError(f"There is no grid {base!r} to round; there are {', '.join(BASES)}.")
    ts = BASES[base](schedule, n, **options)
    moved = at_levels(schedule, _levels(schedule, ts[ts > 0]))
    return moved if ts[-1] == 0 else moved[:-1]


def pinned(schedule: Schedule, n: int, *, base: str = "uniform", gap: float = 1e-3, **options):
    """Puts t_max, where a bridge is its endpoint, before another grid of n - 1 steps from t_max - gap.

    DBIM's own (Zheng et al. 2024, code) is base="uniform", gap=1e-3; karras and log_snr need a start below t_max.

    Raises:
        ValueError: for another grid's name or options, fewer than 2 steps, or a gap outside (0, t_max).
    """
    _check_steps(n, least=2)
    end = float(schedule.t_max)
    if base not in (bases := ("uniform", "karras", "log_snr", "angle")):
        raise ValueError(f"A bridge's grid cannot be made of {base!r}; there are {', '.join(bases)}.")
    if not 0 < gap < end:
        raise ValueError(f"gap is {gap}, expected a time between 0 and t_max = {end}, both excluded.")
    return check(np.append(end, BASES[base](schedule, n - 1, t_max=end - gap, **options)), end)


def of_base(schedule: Schedule, n: int, *, base: str = "log_snr", **options):
    """Makes the grid `base` of the schedule inside this one: of one per frequency, that without its blur.

    Raises:
        ValueError: for a schedule that is made of no other, or another grid's name or options.
    """
    if not isinstance(schedule, Derived):
        raise ValueError(f"{type(schedule).__name__} is made of no other schedule: take the grid {base} itself.")
    if base not in BASES:
        raise ValueError(f"There is no grid {base!r} of a base schedule; there are {', '.join(BASES)}.")
    return check(BASES[base](schedule.base, n, **options), float(schedule.t_max))


def counts(schedule: Schedule, n: int | None = None) -> np.ndarray:
    """Takes whole times from t_max down to 0, evenly, for a process whose times count something, wrong tokens say.

    Args:
        schedule: one whose t_max is its number of steps.
        n: steps, at most t_max; None: all of them, t_max, t_max - 1, .., 0.

    Raises:
        ValueError: for a schedule whose times are no counts; n outside 1 .. t_max.
    """
    end = float(schedule.t_max)
    if not (isinstance(schedule, Discrete) and schedule.steps == end):
        raise ValueError(
            f"{type(schedule).__name__} runs from 0 to t_max = {end:g}, times that count nothing; take grids.uniform."
        )
    n = int(end) if n is None else host.check_int("The number of steps", n, most=int(end))
    return check(np.round(np.linspace(end, 0, n + 1)), end)


def at_levels(schedule: Schedule, levels) -> np.ndarray:
    """Makes the grid at these falling noise levels sigma / alpha, then 0."""
    ts = _time_of_log_snr(schedule, -2 * np.log(np.asarray(levels, np.float64)))
    return check(np.append(ts, 0.0), float(schedule.t_max))


def chain_levels(chain: schedules.Tabulated) -> np.ndarray:
    """Computes sigma / alpha after each of the steps of a chain, rising, (T,)."""
    return np.sqrt(np.expm1(-2 * np.asarray(chain.log_alpha, np.float64)[1:]))


def sections(schedule: Schedule, n: str | int, *, steps: int = 1000):
    """Takes sub-sequences as iDDPM, in its notation (Nichol & Dhariwal 2021, code): the model keeps its original times.

    Args:
        n: "ddim25": every i-th index from 0 up, i the smallest stride that keeps exactly 25 (Song et al. 2020);
            "10,15,20": the chain cut into equal parts, so many indices evenly from each, both ends included; "25" or
            25: one such part, which is `linspace`, and keeps other indices than "ddim25".

    Raises:
        ValueError: for another text, a stride that does not exist, or a part that is shorter than its count.
    """
    _check_steps(steps, "The length of the chain")
    text = str(n).replace(" ", "")
    if re.fullmatch(r"ddim[0-9]{1,9}", text):
        return _chain_times(schedule, _strided(int(text[4:]), steps), steps)
    if not re.fullmatch(r"[0-9]+(,[0-9]+)*", text):
        raise ValueError(f'The sections are {n!r}, expected counts such as "10,15,20", or "ddim25".')
    if max(map(len, text.split(","))) > 9:
        raise ValueError(f"The sections are {host.one_line(text, 400)!r}, expected counts of at most 9 digits.")
    counts, index, start = [int(count) for count in text.split(",")], [], 0
    for i, count in enumerate(counts):
        size = steps // len(counts) + (i < steps % len(counts))
        if not 1 <= count <= size:
            raise ValueError(f"Section {i} of {n!r} is to keep {count} of its {size} indices, expected 1 to {size}.")
        kept = [start + round(Fraction(j * (size - 1), max(count - 1, 1))) for j in range(count)]
        index, start = index + kept, start + size
    return _chain_times(schedule, np.asarray(index), steps)


def _strided(count: int, steps: int) -> np.ndarray:
    for stride in range(1, steps + 1):
        if len(index := np.arange(0, steps, stride)) == count:
            return index
    raise ValueError(f"No integer stride keeps exactly {count} of {steps} indices; give their number alone: {count}.")


# Grids by name, for those that are made of another: all but `rounded` itself.
_GRIDS = (
    angle,
    counts,
    iddpm,
    karras,
    ladder,
    leading,
    linspace,
    log_snr,
    pinned,
    quadratic,
    sections,
    trailing,
    uniform,
    ve,
    vp,
)
BASES: dict[str, Callable[..., Any]] = {grid.__name__: grid for grid in _GRIDS}


def check(ts, t_max: float | None = None) -> np.ndarray:
    """Checks a grid and gives it as float64 (N + 1,).

    Raises:
        ValueError: unless it is finite, strictly decreasing, of at least two times, and inside [0, t_max].
    """
    ts = np.asarray(ts, np.float64)
    if ts.ndim != 1 or ts.size < 2:
        raise ValueError(f"The time grid has shape {ts.shape}, expected (N + 1,) with N >= 1 steps.")
    if not np.all(np.isfinite(ts)):
        raise ValueError(
            f"The time grid holds {ts[~np.isfinite(ts)][0]} at index {np.flatnonzero(~np.isfinite(ts))[0]}."
        )
    rising = np.flatnonzero(np.diff(ts) >= 0)
    if rising.size:
        i = rising[0]
        raise ValueError(f"The time grid must decrease strictly; ts[{i}] = {ts[i]:.6g}, ts[{i + 1}] = {ts[i + 1]:.6g}.")
    if ts[-1] < 0 or (t_max is not None and ts[0] > t_max * (1 + 1e-6)):
        raise ValueError(f"The time grid runs from {ts[0]:.6g} to {ts[-1]:.6g}, expected it inside [0, {t_max}].")
    return ts


def _grid(schedule, n, t_max, t_min, zero, warp) -> np.ndarray:
    _check_steps(n)
    end = float(schedule.t_max)
    t_max = end if t_max is None else float(t_max)
    if not 0 <= t_min < t_max <= end * (1 + 1e-6):
        raise ValueError(f"Got t_min = {t_min} and t_max = {t_max}, expected 0 <= t_min < t_max <= {end}.")
    zero = zero and t_min > 0  # t_min = 0 is that last time already
    points = n if zero else n + 1
    ts = np.array(warp(np.linspace(0, 1, max(points, 2)), t_max, t_min))[:points]  # looks at both ends, if one is taken
    ts[0] = t_max
    if points > 1:
        ts[-1] = t_min  # the ends are exact, whatever the warp rounds
    return check(np.append(ts, 0.0) if zero else ts, end)


def _levels(schedule, ts) -> np.ndarray:
    """sigma / alpha at times where neither is 0."""
    alpha, sigma = calculus.amplitudes(schedule, ts)
    if alpha.ndim > 1:
        calculus.need_scalar(schedule, "A grid by noise levels")
    if (infinite := np.flatnonzero((alpha == 0) | (sigma == 0))).size:
        i = infinite[0]
        raise ValueError(
            f"log-SNR is infinite at t = {ts[i]} (alpha = {alpha[i]}, sigma = {sigma[i]}); move that end inwards, or "
            "take a grid that does not step in it (grids.uniform: --config.grid.name=uniform)."
        )
    return sigma / alpha


def _angles(schedule, ts, sigma_data) -> np.ndarray:
    """arctan(sigma / (alpha sigma_data)) at times where not both are 0."""
    alpha, sigma = calculus.amplitudes(schedule, ts)
    if alpha.ndim > 1:
        calculus.need_scalar(schedule, "A grid by angles")
    if (nothing := np.flatnonzero((alpha == 0) & (sigma == 0))).size:
        i = nothing[0]
        raise ValueError(f"log-SNR is infinite at t = {ts[i]} (alpha = 0.0, sigma = 0.0); move that end inwards.")
    return np.arctan2(sigma, alpha * sigma_data)


def _time_of_log_snr(schedule, values) -> np.ndarray:
    return host.along(calculus.time_of, schedule, values)


def _check_steps(n, what="The number of steps", least=1) -> None:
    host.check_int(what, n, least, most=MOST_STEPS)


def _check_chain(n, steps) -> None:
    _check_steps(n)
    _check_steps(steps, "The length of the chain")
    if n > steps:
        raise ValueError(f"Got n = {n} steps out of a chain of {steps}, expected n <= {steps}.")


def _chain_times(schedule, index, steps) -> np.ndarray:
    """Index k of a DDPM chain (0 .. T-1) is the state after k + 1 steps: t = (k + 1) / T; then t = 0."""
    if steps > 1 and index[-1] == 0:
        raise ValueError(
            f"The only step of this grid starts at index 0 of a chain of {steps}, where there is next to no noise: "
            "take grids.trailing or grids.linspace, which start at the noisiest."
        )
    # (indices.1)
    return check(np.append((index[::-1] + 1) / steps, 0.0) * float(schedule.t_max), float(schedule.t_max))
