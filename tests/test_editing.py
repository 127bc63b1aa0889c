"""SDEdit and linear inverse problems on Gaussian data, where the law of what comes out is known."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from own_objects import trainer

from diffjax import config, data, denoisers, editing, grids, methods, models, processes, runs, samplers, schedules
from diffjax.denoisers import inverse
from diffjax.runs.run import Run

MEAN, VAR = np.array([0.6, -0.4, 0.2]), np.array([0.5, 0.1, 0.02])
X0 = np.float32([1.4, -1.0, 0.1])
N = 4000


def exact(mean, var, schedule=schedules.VP(), steps=300, dataset=None, process=None, **parts):  # noqa: B008
    """A run whose network says E[x_0 | x_t] of N(mean, diag(var)) under a variance-preserving schedule."""
    params = {"mean": jnp.asarray(mean, jnp.float32), "var": jnp.asarray(var, jnp.float32)}

    def posterior_mean(params, x, c, given):
        alpha, noise = jnp.sqrt(jax.nn.sigmoid(c)), jax.nn.sigmoid(-c)
        gain = alpha * params["var"] / (alpha**2 * params["var"] + noise)
        return params["mean"] + gain * (x - alpha * params["mean"])

    x = np.random.default_rng(0).normal(size=(40, len(mean))).astype(np.float32)
    network = models.from_function(posterior_mean, params, reads=())
    process = processes.Gaussian(schedule) if process is None else process
    parts = {"grid": functools.partial(grids.log_snr, n=steps), **parts}
    method = methods.denoising(network, process, denoisers.X0(), **parts)
    return trainer(method, data.arrays(x) if dataset is None else dataset, chunk=1000).run()


@pytest.fixture(scope="module")
def short():
    return exact(MEAN, VAR, steps=5)


ETA = {"flow": samplers.ancestral.ddim, "chain": functools.partial(samplers.ancestral.ddim, eta=1.0)}


@pytest.fixture(scope="module", params=ETA)
def walked(request):
    return request.param, exact(MEAN, VAR, sampler=ETA[request.param])


def levels(t):
    """alpha and sigma of VP at t, by its integral: beta from 0.1 to 20."""
    log_alpha = -0.25 * t**2 * 19.9 - 0.5 * t * 0.1
    return np.exp(log_alpha), np.sqrt(-np.expm1(2 * log_alpha))


def law(kind, t, steps=2):
    """Mean and variance of the edit of X0 at t: of the flow's map, of the posterior, or of one step to its mean."""
    alpha, sigma = levels(t)
    total = alpha**2 * VAR + sigma**2
    gain = np.sqrt(VAR / total) if kind == "flow" and steps > 1 else alpha * VAR / total
    var = gain**2 * sigma**2 + (VAR * sigma**2 / total if kind == "chain" and steps > 1 else 0)
    return MEAN + gain * alpha * (X0 - MEAN), var


def check_law(x, mean, var, bias=0.0):
    """Five standard errors, and the steps' own error."""
    error = np.sqrt(var / len(x))
    np.testing.assert_array_less(np.abs(x.mean(0) - mean), 5 * error + bias)
    np.testing.assert_allclose(x.var(0), var, rtol=5 * np.sqrt(2 / len(x)) + bias)
    off = np.corrcoef(x.T)[~np.eye(x.shape[1], dtype=bool)]
    assert np.abs(off).max() < 5 / np.sqrt(len(x))


def test_the_law_of_an_edit(walked):
    kind, run = walked
    edited = run.edit(X0, 0.37, N)
    assert (edited.t, edited.whole) == (0.37, 1.0)
    alpha, sigma = levels(0.37)
    assert edited.level == pytest.approx(sigma / alpha, rel=1e-6)
    check_law(edited.noised, alpha * X0, np.full(3, sigma**2))
    check_law(edited.x, *law(kind, 0.37), bias=0.02)


def test_below_one_step_there_is_one_evaluation(walked):
    """t below the grid's last time: the posterior's mean at that very t, sampler or not."""
    kind, run = walked
    edited = run.edit(X0, 4e-4, N)
    assert edited.evaluations == 1
    check_law(edited.x, *law(kind, 4e-4, steps=1))
    alpha, sigma = levels(4e-4)
    gain = alpha * VAR / (alpha**2 * VAR + sigma**2)
    np.testing.assert_allclose(edited.x, MEAN + gain * (edited.noised - alpha * MEAN), atol=2e-5)


def test_strength_one_is_a_draw_and_strength_zero_the_input(walked):
    _, run = walked
    edited = run.edit(X0, 1, [3, 1, 2])
    np.testing.assert_array_equal(edited.x, run.draw([3, 1, 2]))
    many = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    untouched = run.edit(many, 0)
    np.testing.assert_array_equal(untouched.x, many)
    assert (untouched.evaluations, untouched.t, untouched.level) == (0, 0.0, 0.0)


@pytest.mark.parametrize("strength", [0.2, 0.37, 0.999, 1 - 1e-9])
def test_a_walk_starts_at_its_time_and_not_at_the_grids(strength):
    """DDIM by hand from x_t of that very t along the grid's times below it; the noise of a seed is one for all t."""
    run = exact(MEAN, VAR, steps=4)
    edited, other = run.edit(X0, strength, 3), run.edit(X0, 0.5, 3)
    (alpha, sigma), (a, s) = levels(strength), levels(0.5)
    np.testing.assert_allclose((edited.noised - alpha * X0) / sigma, (other.noised - a * X0) / s, atol=1e-5)
    ts = grids.log_snr(schedules.VP(), 4)
    walk = [strength, *[t for t in ts if t < strength - 1e-6]]
    assert edited.evaluations == len(walk) - 1
    x = edited.noised
    for t, s in itertools.pairwise(walk):
        (alpha, sigma), (a, b) = levels(t), levels(s)
        mean = MEAN + alpha * VAR / (alpha**2 * VAR + sigma**2) * (x - alpha * MEAN)
        x = a * mean + b * (x - alpha * mean) / sigma
    np.testing.assert_allclose(edited.x, x, atol=2e-5)


def test_an_edit_is_a_function_of_its_seed_and_takes_the_words_of_a_draw(walked):
    _, run = walked
    many = np.random.default_rng(1).normal(size=(4, 3)).astype(np.float32)
    whole = run.edit(many, 0.4, [7, 8, 9, 10], sampler="dpmpp_2m", nfe=6)
    part = run.edit(many[2], 0.4, [9], sampler="dpmpp_2m", nfe=6)
    np.testing.assert_array_equal(whole.x[2:3], part.x)
    assert whole.evaluations == 1 + (grids.log_snr(schedules.VP(), 6) < 0.4).sum() - 1


A = np.array([[0.7, -0.3, 0.5], [0.2, 0.9, 0.1]])
R = 0.3


def conditional(mean, var, y):
    """Mean and variance of x ~ N(mean, diag(var)) given y = A x + R n, by Bayes' rule."""
    gain = np.diag(var) @ A.T @ np.linalg.inv(A @ np.diag(var) @ A.T + R**2 * np.eye(2))
    return mean + gain @ (y - A @ mean), np.diag(var) - gain @ A @ np.diag(var)


@pytest.mark.parametrize("units", [False, True], ids=["as they are", "standardised"])
def test_a_restoration_has_the_exact_conditional_law(units):
    """PiGDM is exact where the data is one isotropic Gaussian, in the units that the run sees."""
    var = np.full(3, 0.4)
    run = exact(np.zeros(3) if units else MEAN, np.ones(3) if units else var)
    if units:
        x = np.random.default_rng(0).normal(size=(500, 3)) * np.sqrt(VAR) + MEAN
        dataset = data.standardize(data.arrays(x.astype(np.float32)), "entries")
        run = run._replace(data=dataset)
    mean, spread = (dataset.units.mean, dataset.units.scale**2) if units else (MEAN, var)
    y = np.float32([0.9, -0.7])
    by = functools.partial(inverse.pigdm, v=1.0 if units else 0.4)
    found = run.restore(y, lambda x: jnp.asarray(A, x.dtype) @ x, N, noise=R, by=by, start=None)
    expected, cov = conditional(mean, spread, y)
    np.testing.assert_array_less(np.abs(found.x.mean(0) - expected), 5 * np.sqrt(np.diag(cov) / N) + 0.01)
    np.testing.assert_allclose(np.cov(found.x.T), cov, atol=6 * cov.max() / np.sqrt(N) + 0.005)
    np.testing.assert_allclose(found.residual, np.sqrt(((found.x @ A.T - y) ** 2).mean(1)), rtol=1e-3, atol=1e-5)


def test_standardised_data_is_edited_in_its_own_units(short):
    """x = mean + scale u: what is noised is u, by the noise of the seed, and what is given back is x."""
    x = np.random.default_rng(0).normal(size=(500, 3)) * np.sqrt(VAR) + MEAN
    dataset = data.standardize(data.arrays(x.astype(np.float32)), "entries")
    run, (alpha, sigma) = short._replace(data=dataset), levels(0.37)
    plain, edited = short.edit(X0, 0.37, 3), run.edit(X0, 0.37, 3)
    z, units = (plain.noised - alpha * X0) / sigma, dataset.units
    noised = units.mean + units.scale * (alpha * (X0 - units.mean) / units.scale + sigma * z)
    np.testing.assert_allclose(edited.noised, noised, atol=1e-5)
    again = short.edit((X0 - units.mean) / units.scale, 0.37, 3).x
    np.testing.assert_allclose(edited.x, units.mean + units.scale * again, atol=1e-5)


def test_where_walks_begin_and_what_methods_are_told():
    run = exact(MEAN, VAR, steps=12)
    y, see = np.float32([0.5]), lambda x: x[:1]
    whole, later = (run.restore(y, see, 2, start=start) for start in (None, 5.0))
    ts = grids.log_snr(schedules.VP(), 12)
    early = [a / s for s, a in map(levels, ts[ts > 0])]
    assert whole.evaluations == 12
    assert later.evaluations == 1 + sum(1 / level < 5 for level in early)
    train = run.data.some("train", 100).x
    told = run.restore(y, see, 2, by=functools.partial(inverse.pigdm, v=float(np.var(train, dtype=np.float64))))
    np.testing.assert_array_equal(later.x, told.x)
    options = run.restore(y, see, 2, by={"name": "diffpir", "strength": 2.0}, noise=0.1)
    np.testing.assert_array_equal(options.x, run.restore(y, see, 2, by=_diffpir, noise=0.1).x)
    np.testing.assert_allclose(run.restore(y, see, 2, by="replacement").x[:, 0], 0.5, atol=1e-5)


def _diffpir(denoise, observation):
    return inverse.diffpir(denoise, observation, 2.0)


def test_a_process_of_other_noise_edits_by_its_own_law():
    """PFGM++: x_t = x_0 + t z, z Student-t, one for all strengths; at 1 the prior."""
    process = processes.poisson(schedules.EDM(t_max=4.0), 8.0)
    run = exact(MEAN, VAR, process=process, grid=functools.partial(grids.karras, n=4))
    some, other = run.edit(X0, 0.25, 3), run.edit(X0, 0.5, 3)
    np.testing.assert_allclose(some.noised - X0, (other.noised - X0) / 2, rtol=1e-5)
    np.testing.assert_array_equal(run.edit(X0, 1.0, 3).x, run.draw(3))
    with pytest.raises(config.ConfigError, match=r"not Gaussian.*take replacement, diffpir or diagonal"):
        run.restore(np.float32([0.5]), lambda x: x[:1], 2)


def opened(path):
    """The run of a config, without a state: what refuses needs none."""
    built = runs.build_run(runs.load(path))
    return Run(built.method, built.data, built.ema, built.settings, None, config=built.config)


@pytest.mark.parametrize(
    ("path", "match"),
    [
        ("configs/bridge.py:tiny", "x_t depends on x_0 and noise alone; this one's depends on y too"),
        ("configs/masked.py:tiny", "needs a method with a guided_denoiser"),
        ("configs/flow_map.py:tiny", "needs a method with a guided_denoiser"),
        ("configs/monoflow.py:tiny", "needs a method with a guided_denoiser"),
    ],
)
def test_what_cannot_be_walked_back_to_says_so(path, match):
    run = opened(path)
    x = np.zeros((1, *run.data.shape), np.float32)
    for call in (lambda: run.edit(x, 0.5), lambda: run.restore(x[0], lambda x: x)):
        with pytest.raises(config.ConfigError, match=match):
            call()


BAD = {
    "above 1": (lambda run: run.edit(X0, 1.01), r"strength is 1.01, expected a number from 0"),
    "negative": (lambda run: run.edit(X0, -1e-9), r"strength is -1e-09"),
    "nan": (lambda run: run.edit(X0, float("nan")), r"strength is nan"),
    "no number": (lambda run: run.edit(X0, "0.5"), r"strength is '0.5'"),
    "shape": (lambda run: run.edit(np.zeros((2, 4)), 0.5), r"x has shape \(2, 4\), expected \(3,\) for all seeds"),
    "count": (lambda run: run.edit(np.zeros((2, 3)), 0.5, 3), r"x has shape \(2, 3\), expected \(3,\) .*or \(3, 3\)"),
    "not finite": (lambda run: run.edit(np.full(3, np.nan), 0.5), "expected finite floating numbers"),
    "word": (lambda run: run.edit(X0, 0.5, sampelr="heun"), "no 'sampelr': nearest is 'sampler'"),
    "no step": (
        lambda run: run.edit(X0, 1e-4, grid=functools.partial(grids.log_snr, n=5, zero=False)),
        "begin at t = 0.0001, but the grid ends at 0.001",
    ),
    "y": (lambda run: run.restore(np.zeros(2), lambda x: x[:1]), r"y has shape \(2,\), expected \(1,\)"),
    "operator": (lambda run: run.restore(np.zeros(3), "blurr"), "operators has no 'blurr': nearest is 'blur'"),
    "option": (lambda run: run.restore(np.zeros(3), {"name": "inpaint", "boxx": 1}), "no option 'boxx'"),
    "places": (lambda run: run.restore(np.zeros(3), "blur"), r"blur is for examples with places"),
    "by": (lambda run: run.restore(np.zeros(3), lambda x: x, by="pigdmm"), "nearest is 'pigdm'"),
    "noise": (lambda run: run.restore(np.zeros(3), lambda x: x, noise=-1.0), "noise is -1.0"),
    "not linear": (lambda run: run.restore(np.zeros(3), lambda x: x + 1), "is not linear"),
    "dps": (lambda run: run.restore(np.zeros(3), lambda x: x, by="dps"), "DPS divides by the noise"),
    "start": (lambda run: run.restore(np.zeros(3), lambda x: x, start=-1.0), "start is -1.0"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line(name, short):
    call, match = BAD[name]
    with pytest.raises(config.ConfigError, match=match) as error:
        call(short)
    assert "\n" not in str(error.value)


def test_a_cut_grid_keeps_its_times_and_none_that_float32_confuses():
    ts = np.array([1.0, 0.5, 0.25, 0.0])
    np.testing.assert_array_equal(editing.below(ts, 0.3), [0.3, 0.25, 0.0])
    np.testing.assert_array_equal(editing.below(ts, 0.25), [0.25, 0.0])
    np.testing.assert_array_equal(editing.below(ts, 0.25 * (1 + 1e-9)), [0.25 * (1 + 1e-9), 0.0])
    assert editing.psnr(np.zeros(4), np.full(4, 0.2), 2.0) == pytest.approx(20.0)
    assert editing.psnr(np.ones(4), np.ones(4), 2.0) == np.inf


# Ranges.


@pytest.fixture(scope="module")
def pictures():
    """A run on 4 x 4 images, which are bytes: pixels."""
    images = np.random.default_rng(0).integers(0, 256, (40, 4, 4, 1), dtype=np.uint8)

    def network(params, x, c, given):
        return params[0] * x

    method = methods.denoising(models.from_function(network, np.ones(1, np.float32), reads=()), VP4, denoisers.X0())
    return trainer(method, data.arrays(images)).run(), images


VP4 = processes.Gaussian(schedules.VP())


@pytest.mark.parametrize("scale", [255.0, -3.0])
def test_pixels_as_floats_are_refused(pictures, scale):
    run, images = pictures
    x = scale * images[:2].astype(np.float32) / 255
    with pytest.raises(
        config.ConfigError, match=r"x spans \[.*\], but arrays lies in \[-1, 1\]: scale it there; pixels"
    ):
        run.edit(x, 0.5)
    seen, see = (images[0], lambda x: x) if scale < 0 else (images[0].mean((0, 1)), lambda x: jnp.mean(x, (0, 1)))
    match = rf"y reaches {seen.max():.4g}, but A x of arrays, in \[-1, 1\], about 1: give y of x in that range \(pixels"
    with pytest.raises(config.ConfigError, match=match):
        run.restore(seen.astype(np.float32), see, 2)


def test_bytes_and_a_modest_overshoot_are_taken(pictures):
    run, images = pictures
    whole = images[:2] / np.float32(127.5) - 1
    np.testing.assert_allclose(run.edit(images[:2], 0.0).x, whole, atol=1e-6)
    run.edit(1.9 * whole / np.abs(whole).max(), 0.0)
    with pytest.raises(config.ConfigError, match="x spans"):
        run.edit(2.1 * whole / np.abs(whole).max(), 0.0)
    run.restore(9.0 * whole[0], lambda x: x, 1, nfe=2)  # far out, but a sum of places may be
    run.restore(np.float32([[200.0]]) + np.zeros((1, 1), np.float32), lambda x: 16 * jnp.sum(x, (0, 1))[None], 1, nfe=2)


def test_floating_images_have_the_range_of_pixels_and_what_the_data_has_beyond():
    images = np.float32([-0.2, 3.0] * 20)[:, None, None, None]
    assert data.arrays(np.repeat(images, 4, 1)).span() == (-1.0, 3.0)


def test_vectors_have_no_range(short):
    assert short.data.span() is None
    assert short.edit(100 * X0, 0.1, 1).x.shape == (1, 3)


def test_the_range_of_standardised_images_is_that_of_the_data():
    images = np.random.default_rng(0).uniform(10, 50, (40, 4, 4, 1)).astype(np.float32)
    dataset = data.standardize(data.arrays(images), "whole")
    low, high = dataset.span()  # of the training part
    assert 10 <= low < 12
    assert 48 < high <= 50
    dataset.check_range("x", np.float32([[[[69.0]]]]))
    with pytest.raises(ValueError, match=r"x spans \[90, 90\], but arrays lies in \[1\d\.\d+, 4\d\.\d+\]"):
        dataset.check_range("x", np.float32([[[[90.0]]]]))
