"""Time grids against the published rules, written out in integers, and against their definitions."""

from fractions import Fraction
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax import calculus, grids
from diffjax.schedules import EDM, VE, VP, Cosine, Rectified, SubVP, Tabulated

CHAIN = Tabulated.linear()
SMOOTH = [grids.uniform, grids.karras, grids.log_snr]
CHAINS = [grids.leading, grids.trailing, grids.linspace, grids.quadratic]


def indices(ts, steps=1000):
    """DDPM's indices, noisiest first: state k + 1 of the chain is index k; the final t = 0 is none of them."""
    assert ts[-1] == 0
    index = ts[:-1] * steps - 1
    np.testing.assert_allclose(index, np.round(index), atol=1e-9)
    return [round(i) for i in index]


PUBLISHED = [  # grid, n, T, indices from the noisiest down, by hand
    (grids.leading, 10, 1000, [900, 800, 700, 600, 500, 400, 300, 200, 100, 0]),
    (grids.leading, 3, 1000, [666, 333, 0]),
    (grids.leading, 4, 10, [6, 4, 2, 0]),
    (grids.leading, 7, 7, [6, 5, 4, 3, 2, 1, 0]),
    (grids.trailing, 10, 1000, [999, 899, 799, 699, 599, 499, 399, 299, 199, 99]),
    (grids.trailing, 3, 1000, [999, 666, 332]),
    (grids.trailing, 4, 10, [9, 7, 4, 1]),  # 10, 7.5, 5, 2.5 round to even: 10, 8, 5, 2
    (grids.trailing, 1, 1000, [999]),
    (grids.trailing, 2, 4000, [3999, 1999]),
    (grids.linspace, 10, 1000, [999, 888, 777, 666, 555, 444, 333, 222, 111, 0]),
    (grids.linspace, 3, 1000, [999, 500, 0]),  # 499.5 rounds to even
    (grids.linspace, 2, 1000, [999, 0]),
    (grids.linspace, 1, 1000, [999]),
    (grids.linspace, 4, 10, [9, 6, 3, 0]),
    (grids.quadratic, 5, 1000, [800, 450, 200, 50, 0]),
    (grids.quadratic, 3, 100, [80, 20, 0]),
    (grids.quadratic, 1, 1000, [800]),
]


@pytest.mark.parametrize(("grid", "n", "steps", "expected"), PUBLISHED)
def test_published_index_sets(grid, n, steps, expected):
    assert indices(grid(VP(), n, steps=steps), steps) == expected


@pytest.mark.parametrize("steps", [10, 1000, 4000])
@pytest.mark.parametrize("n", [1, 2, 7, 10])
def test_index_sets_by_exact_arithmetic(n, steps):
    trailing = [round(steps - Fraction(k * steps, n)) - 1 for k in range(n)]
    assert indices(grids.trailing(VP(), n, steps=steps), steps) == trailing
    if n > 1:
        assert indices(grids.leading(VP(), n, steps=steps), steps) == [k * (steps // n) for k in reversed(range(n))]
        linspace = [round(Fraction(k * (steps - 1), n - 1)) for k in reversed(range(n))]
        assert indices(grids.linspace(VP(), n, steps=steps), steps) == linspace


SECTIONS = [  # n, T, indices from the noisiest down, by hand
    ("3", 10, [9, 4, 0]),  # 4.5 rounds to even
    (4, 10, [9, 6, 3, 0]),
    ("2,3", 10, [9, 7, 5, 4, 0]),
    (" 1, 2,2 ", 10, [9, 7, 6, 4, 0]),  # parts of 4, 3 and 3
    ("10", 10, [9, 8, 7, 6, 5, 4, 3, 2, 1, 0]),
    ("ddim3", 10, [8, 4, 0]),
    ("ddim4", 10, [9, 6, 3, 0]),
    ("ddim5", 10, [8, 6, 4, 2, 0]),
    ("ddim3", 1000, [668, 334, 0]),  # leading, with its stride 333: 666, 333, 0
]


@pytest.mark.parametrize(("n", "steps", "expected"), SECTIONS)
def test_sections_of_a_chain(n, steps, expected):
    assert indices(grids.sections(VP(), n, steps=steps), steps) == expected


def test_the_published_sections():
    """10 + 15 + 20 of 300: each part of 100 with both of its ends; and ddim50 is not 50."""
    index = indices(grids.sections(VP(), "10,15,20", steps=300), 300)[::-1]
    parts = [round(start + Fraction(99 * j, n - 1)) for start, n in ((0, 10), (100, 15), (200, 20)) for j in range(n)]
    assert index == parts
    assert {0, 99, 100, 199, 200, 299} <= set(index)
    np.testing.assert_array_equal(grids.sections(CHAIN, 50), grids.linspace(CHAIN, 50))
    strided = indices(grids.sections(CHAIN, "ddim50"))
    assert strided == list(range(980, -1, -20))
    assert strided != indices(grids.sections(CHAIN, "50"))


@pytest.mark.parametrize(
    "grid", [lambda s: grids.leading(s, 1), lambda s: grids.sections(s, "1"), lambda s: grids.sections(s, "ddim1")]
)
def test_one_step_from_next_to_no_noise_is_refused(grid):
    """A walk from x_T of unit variance at index 0 would end there: its published set of indices is {0}."""
    with pytest.raises(ValueError, match=r"starts at index 0 of a chain of 1000.* take grids\.trailing"):
        grid(VP())


@pytest.mark.parametrize("n", ["10,15,20", "ddim25", "250"])
def test_a_respaced_chain_keeps_the_alphas_of_the_times_it_keeps(n):
    """New betas from the kept products: their cumulative product is the kept one, at the original times."""
    ts = grids.sections(CHAIN, n)
    alpha, _ = calculus.amplitudes(CHAIN, ts)
    bar = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))[[*indices(ts)[::-1]]]
    betas = 1 - bar / np.append(1.0, bar[:-1])
    np.testing.assert_allclose(np.cumprod(1 - betas), alpha[:-1][::-1] ** 2, rtol=1e-11)
    np.testing.assert_allclose(1 - (alpha[:-1] / alpha[1:]) ** 2, betas[::-1], rtol=1e-9)


@pytest.mark.parametrize(
    ("n", "match"),
    [
        ("ddim7", "No integer stride keeps exactly 7 of 10"),
        ("ddim0", "No integer stride keeps exactly 0 of 10"),
        ("5,6", r"Section 1 of '5,6' is to keep 6 of its 5 indices"),
        ("0", "keep 0 of its 10"),
        (11, "keep 11 of its 10"),
        ("", "expected counts such as"),
        ("ddim", "expected counts such as"),
        ("3,-1", "expected counts such as"),
        (2.5, "expected counts such as"),
        ("1,1,1,1,1,1,1,1,1,1,1", "Section 10 of .* is to keep 1 of its 0"),
    ],
)
def test_bad_sections_are_refused(n, match):
    with pytest.raises(ValueError, match=match):
        grids.sections(VP(), n, steps=10)


def test_the_next_time_is_not_a_stride_away():
    """On linspace with n = 10 the rule t - T // n is wrong for 9 of 9 pairs, so nothing may rely on it."""
    index = indices(grids.linspace(CHAIN, 10))
    assert sum(now - 1000 // 10 != following for now, following in pairwise(index)) == 9


def test_chain_times_are_the_entries_of_the_table():
    """Index k is the state after k + 1 steps: its alpha^2 is the product of the first k + 1 alphas."""
    ts = grids.trailing(CHAIN, 10)
    alpha, _ = calculus.amplitudes(CHAIN, ts)
    bar = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    np.testing.assert_allclose(alpha**2, [*bar[[999, 899, 799, 699, 599, 499, 399, 299, 199, 99]], 1.0], rtol=1e-11)


@pytest.mark.parametrize(("n", "duplicates"), [(50, 1), (100, 4), (200, 13)])
def test_quadratic_moves_its_duplicates(n, duplicates):
    rule = [4 * 1000 * k * k // (5 * (n - 1) ** 2) for k in range(n)]
    assert n - len(set(rule)) == duplicates
    moved = indices(grids.quadratic(VP(), n))[::-1]
    assert len(moved) == n
    assert all(a < b for a, b in pairwise(moved))
    free = 0
    for published, index in zip(rule, moved):
        assert index == max(published, free)
        free = index + 1
    assert moved[0] == 0
    assert moved[-1] == 800


def test_quadratic_fills_a_short_chain_and_refuses_bad_fractions():
    assert indices(grids.quadratic(VP(), 9, steps=10), 10) == [8, 7, 6, 5, 4, 3, 2, 1, 0]
    assert indices(grids.quadratic(VP(), 10, steps=10), 10) == [9, 8, 7, 6, 5, 4, 3, 2, 1, 0]
    assert indices(grids.quadratic(VP(), 3, fraction=0.4), 1000) == [400, 100, 0]
    for fraction in (0, 1, -0.5, np.nan, 2):
        with pytest.raises(ValueError, match="fraction is"):
            grids.quadratic(VP(), 10, fraction=fraction)


def test_karras_numbers():
    """The 18-step grid of the EDM paper, sigma_i = (80^(1/7) + i/17 (0.002^(1/7) - 80^(1/7)))^7, then 0."""
    ts = grids.karras(EDM(), 18)
    assert len(ts) == 19
    assert f"{ts[1]:.3f} {ts[2]:.3f}" == "57.586 40.786"
    assert (ts[0], ts[-2], ts[-1]) == (80.0, 0.002, 0.0)
    rule = (80 ** (1 / 7) + np.arange(18) / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    np.testing.assert_allclose(ts[:-1], rule, rtol=1e-12)


@pytest.mark.parametrize(
    "schedule", [VP(), SubVP(), VE(), Cosine(), Rectified(), CHAIN], ids=lambda s: type(s).__name__
)
@pytest.mark.parametrize("rho", [1.0, 3.5, 7.0])
def test_karras_is_even_in_a_root_of_the_noise_to_signal_ratio(schedule, rho):
    ts = grids.karras(schedule, 12, rho=rho, t_max=0.95, zero=False)
    alpha, sigma = calculus.amplitudes(schedule, ts)
    np.testing.assert_allclose(np.diff((sigma / alpha) ** (1 / rho), 2), 0, atol=1e-9 * (sigma[0] / alpha[0]))
    assert (ts[0], ts[-1], len(ts)) == (0.95, 0.002, 13)


@pytest.mark.parametrize(
    "schedule", [VP(), SubVP(), VE(), EDM(), Cosine(), Rectified()], ids=lambda s: type(s).__name__
)
def test_log_snr_grid_is_even_in_log_snr(schedule):
    ts = grids.log_snr(schedule, 9, t_max=0.9, t_min=0.01, zero=False)
    alpha, sigma = calculus.amplitudes(schedule, ts)
    steps = np.diff(2 * np.log(alpha / sigma))
    np.testing.assert_allclose(steps, steps.mean(), rtol=1e-9)
    assert steps.mean() > 0
    assert (ts[0], ts[-1], len(ts)) == (0.9, 0.01, 10)


def test_uniform_numbers():
    np.testing.assert_allclose(grids.uniform(VP(), 4, zero=False), [1, 0.75025, 0.5005, 0.25075, 0.001], rtol=1e-14)
    np.testing.assert_allclose(grids.uniform(VP(), 4, t_min=0.1), [1, 0.7, 0.4, 0.1, 0], rtol=1e-14)
    np.testing.assert_allclose(grids.uniform(EDM(), 2, t_max=50.0, t_min=10.0), [50, 10, 0], rtol=1e-14)


@pytest.mark.parametrize("grid", SMOOTH)
@pytest.mark.parametrize("schedule", [VP(), VE(), EDM(), CHAIN], ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("n", [1, 2, 3, 10, 100])
@pytest.mark.parametrize("zero", [True, False])
def test_n_steps_are_n_plus_1_decreasing_times_with_exact_ends(grid, schedule, n, zero):
    t_min = 0.007
    ts = grid(schedule, n, t_min=t_min, zero=zero)
    assert isinstance(ts, np.ndarray)
    assert ts.dtype == np.float64
    assert ts.shape == (n + 1,)
    assert ts[0] == schedule.t_max
    assert ts[-1] == (0.0 if zero else t_min)
    assert np.all(np.diff(ts) < 0)
    if zero and n > 1:
        assert ts[-2] == t_min


@pytest.mark.parametrize(
    ("grid", "n"), [(grid, n) for grid in CHAINS for n in (1, 2, 10, np.int64(50)) if (grid, n) != (grids.leading, 1)]
)
def test_chain_grids_have_n_steps_and_end_at_0(grid, n):
    ts = grid(CHAIN, n)
    assert ts.dtype == np.float64
    assert ts.shape == (n + 1,)
    assert ts[-1] == 0
    assert np.all(np.diff(ts) < 0)


@pytest.mark.parametrize("zero", [True, False])
@pytest.mark.parametrize("n", [1, 2, 5])
def test_t_min_of_0_counts_as_the_last_time(n, zero):
    np.testing.assert_allclose(grids.uniform(VP(), n, t_min=0.0, zero=zero), np.linspace(1, 0, n + 1), atol=1e-15)


def test_float32_ends_of_a_schedule_are_accepted():
    assert grids.uniform(EDM(t_max=jnp.float32(79.9)), 3)[0] == np.float32(79.9)


@pytest.mark.parametrize("grid", SMOOTH + CHAINS)
@pytest.mark.parametrize("n", [0, -1, 2.5, True, "10", None, np.float64(3)])
def test_bad_step_counts_are_refused(grid, n):
    with pytest.raises(ValueError, match=r"number of steps is .*, expected an integer >= 1"):
        grid(VP(), n)


@pytest.mark.parametrize("grid", CHAINS)
def test_bad_chains_are_refused(grid):
    with pytest.raises(ValueError, match="n = 11 steps out of a chain of 10, expected n <= 10"):
        grid(VP(), 11, steps=10)
    for steps in (0, 2.5, -4):
        with pytest.raises(ValueError, match="length of the chain is"):
            grid(VP(), 1, steps=steps)


@pytest.mark.parametrize("grid", SMOOTH)
@pytest.mark.parametrize(
    "ends",
    [
        {"t_min": 1.0},
        {"t_min": 0.5, "t_max": 0.4},
        {"t_min": -0.1},
        {"t_min": np.nan},
        {"t_max": np.nan},
        {"t_max": np.inf},
        {"t_max": 1.5},
    ],
)
def test_bad_ends_are_refused(grid, ends):
    with pytest.raises(ValueError, match=r"expected 0 <= t_min < t_max <= 1\.0"):
        grid(VP(), 5, **ends)


@pytest.mark.parametrize("grid", [grids.karras, grids.log_snr])
def test_infinite_log_snr_ends_are_refused(grid):
    for schedule, ends in ((Cosine(), {}), (Rectified(), {}), (VP(), {"t_min": 0.0})):
        with pytest.raises(ValueError, match="log-SNR is infinite at t = "):
            grid(schedule, 5, **ends)
    assert len(grid(Cosine(t_max=0.999), 5)) == 6


@pytest.mark.parametrize("rho", [0, -7, np.nan, np.inf])
def test_bad_rho_is_refused(rho):
    with pytest.raises(ValueError, match="rho is"):
        grids.karras(EDM(), 5, rho=rho)


@pytest.mark.parametrize(
    ("ts", "message"),
    [
        ([1.0, np.nan, 0.0], "holds nan at index 1"),
        ([np.inf, 1.0], "holds inf at index 0"),
        ([0.0, 0.5, 1.0], r"must decrease strictly; ts\[0\] = 0, ts\[1\] = 0.5"),
        ([1.0, 0.5, 0.5], r"ts\[1\] = 0.5, ts\[2\] = 0.5"),
        ([1.0], r"shape \(1,\)"),
        ([[1.0, 0.0]], r"shape \(1, 2\)"),
        (0.5, r"shape \(\)"),
        ([1.0, -0.1], "from 1 to -0.1"),
        ([1.2, 0.0], "from 1.2 to 0"),
    ],
)
def test_bad_grids_are_refused(ts, message):
    with pytest.raises(ValueError, match=message):
        grids.check(ts, 1.0)


def test_good_grids_pass_unchanged():
    ts = grids.check(jnp.asarray([1.0, 0.25, 0.0]), 1.0)
    assert ts.dtype == np.float64
    assert ts.tolist() == [1.0, 0.25, 0.0]
    assert grids.check([5.0, 1.0]).tolist() == [5.0, 1.0]


@pytest.mark.parametrize(
    "schedule", [VP(), EDM(), VE(), SubVP(), Rectified(), Cosine()], ids=lambda s: type(s).__name__
)  # alpha is 0 where the last two start, and sigma above 0 where VE ends
@pytest.mark.parametrize("power", [1.0, 1.5])
def test_angle_turns_evenly_in_its_power(schedule, power):
    """phi = arctan(sigma / (alpha s)) falls along a straight line in phi^(1 / power); the data is its end."""
    ts = grids.angle(schedule, 7, sigma_data=0.6, power=power)
    assert len(ts) == 8
    assert ts[-1] == 0
    alpha, sigma = calculus.amplitudes(schedule, ts)
    phi = np.arctan2(sigma, 0.6 * alpha) ** (1 / power)
    np.testing.assert_allclose(np.diff(phi, 2), 0, atol=1e-7 * phi[0])
    np.testing.assert_allclose(grids.angle(schedule, 1), [float(schedule.t_max), 0])


@pytest.mark.parametrize(
    ("options", "message"), [({"sigma_data": 0.0}, "sigma_data is 0"), ({"power": -1.0}, "power is")]
)
def test_angle_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        grids.angle(VP(), 5, **options)


COMPILED = []  # durations of XLA's compiles in this process
jax.monitoring.register_event_duration_secs_listener(
    lambda event, duration, **_: COMPILED.append(duration) if event.endswith("backend_compile_duration") else None
)


def test_the_counter_counts():
    before = len(COMPILED)
    jax.jit(lambda x: 3 * x + 1)(jnp.zeros(7))
    assert len(COMPILED) > before


@pytest.mark.parametrize("name", sorted({*grids.__all__} - {"calibrated", "counts", "of_base"}))  # of others, of a file
@pytest.mark.parametrize("schedule", [VP(), Cosine(t_max=0.999), CHAIN], ids=lambda s: type(s).__name__)
def test_another_number_of_steps_compiles_nothing(name, schedule):
    """The times are padded to one length: what was made for n = 7 serves every n up to 64."""
    make = getattr(grids, name)
    make(schedule, 7)
    before = len(COMPILED)
    for n in (2, 11, 40):
        make(schedule, n)
    assert len(COMPILED) == before, f"{len(COMPILED) - before} compiles"


def test_every_grid_but_those_of_another_grid_can_be_rounded():
    assert list(grids.BASES) == [name for name in grids.__all__ if name not in ("calibrated", "of_base", "rounded")]
