"""Cold processes: bad input, and the config."""

import jax.numpy as jnp
import numpy as np
import pytest
from run_command import UNET
from test_cold import CLOCK, IMAGE, KEY, RNG

from diffjax import data, denoisers, likelihood, losses, runs
from diffjax.calculus import Clock
from diffjax.commands import train
from diffjax.config import spec
from diffjax.processes import cold
from diffjax.runs import build_run
from diffjax.samplers import ancestral, heun, multistep, sampling_fn, unified
from diffjax.schedules import VP, Cosine, Rectified

NET = lambda x, c: x
REFUSED = {
    "shape": (lambda: cold.of(lambda x, t: x[::2]), r"shape \(4, 8, 1\) of an example of shape \(8, 8, 1\)"),
    "identity": (lambda: cold.of(lambda x, t: t * x), "at t = 0 is not the identity"),
    "finite": (lambda: cold.of(lambda x, t: x / (1 - t)), "not finite at t = 1"),
    "a Python condition": (
        lambda: cold.of(lambda x, t: x if t < 0.5 else 0 * x),
        r"does not take.*jnp\.where\(t < 0\.5",
    ),
    "NumPy": (lambda: cold.of(lambda x, t: np.asarray(x) * (1 - float(t))), r"does not take.*jax\.numpy"),
    "no function": (lambda: cold.of(3), "Got 3 as the degradation"),
    "std": (lambda: cold.blur(std=-0.1), r"std is -0\.1, expected a standard deviation"),
    "extra": (lambda: cold.pixelate(extra=np.nan), "extra is nan"),
    "width": (lambda: cold.blur(width=0.0), r"cold.blur: width is 0\.0"),
    "factor": (lambda: cold.pixelate(factor=1), "cold.pixelate: factor is 1"),
    "clock": (lambda: cold.masked(VP()), "its own clock.*the schedule is VP; give Rectified"),
    "clock's class": (lambda: cold.blur(Rectified), r"the class Rectified"),
    "start": (lambda: cold.blur(start=(0.0, -1.0)), r"start is \(0\.0, -1\.0\), expected \(mean, std\)"),
    "start by an array": (
        lambda: cold.blur(start=np.zeros((8, 8, 1))),
        r"start is an array of shape \(8, 8, 1\), expected",
    ),
    "no start": (lambda: cold.blur().prior(KEY, (8, 8, 1)), "starts from D_1 of data, not from noise"),
    "vector": (lambda: cold.blur().degrade(jnp.zeros(3), 0.5), r"examples with places.*these have shape \(3,\)"),
    "no images": (lambda: cold.mix(), "cold.mix needs images"),
    "images of no examples": (lambda: cold.mix(images=np.zeros(3)), r"takes examples \(n, \*shape\)"),
    "images of another shape": (
        lambda: cold.mix(images=np.zeros((2, 3))).prior(KEY, (4,)),
        r"images of shape \(3,\), but examples of shape \(4,\)",
    ),
    "fitted": (lambda: cold.fitted(cold.blur(), np.zeros((1, 8, 8, 1))), "n >= 2"),
    "a data set": (lambda: cold.fitted(cold.blur(), [[0.0], [1.0, 2.0]]), "as one array, got list"),
    "examples": (lambda: cold.examples(np.full((2, 8), np.nan)), "all finite"),
    "DDIM": (lambda: sampling_fn(ancestral.ddim(CLOCK), [1.0, 0.5, 0.0]), "a degradation has a clock alone"),
    "Adams": (lambda: sampling_fn(multistep.adams(CLOCK), [1.0, 0.5, 0.0]), "samplers.unified"),
    "churn": (lambda: sampling_fn(heun.edm(CLOCK, churn=1.0), [0.9, 0.5, 0.0]), "a degradation has a clock alone"),
    "score": (lambda: denoisers.denoiser(NET, CLOCK, denoisers.Score()), "not Gaussian"),
    "likelihood": (lambda: likelihood.ode(np.asarray([0.9, 0.1]), cold.blur()), "no density"),
    "likelihood of a mixture": (lambda: cold.mix(images=np.zeros((2, 3))).check_density(), "no density"),
    "naive along a flow": (
        lambda: unified(cold.mix(images=np.zeros((2, 3))), 1.0, estimate="mean"),
        "not Gaussian",
    ),
    "norm": (
        lambda: losses.restoration(NET, cold.blur(), denoisers.X0(), IMAGE, IMAGE, 0.5, norm=3),
        "norm is 3, expected 1",
    ),
    "another clock": (lambda: cold.blur().on(Cosine()), "the schedule is Cosine"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_input_is_refused_in_one_line(name):
    make, message = REFUSED[name]
    with pytest.raises(ValueError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


# The config.


def test_the_start_of_the_config_is_that_of_the_training_digits():
    config = runs.load("configs/cold.py")
    means = (x := data.digits().train).gather(np.arange(len(x))).x.mean((1, 2, 3), dtype=np.float64)
    np.testing.assert_allclose(config.process.start, (means.mean(), means.std()), atol=5e-4)


@pytest.mark.parametrize("name", ["pixelate", "masked", "bansal"])
def test_the_recipes_build(name):
    assert isinstance(build_run(runs.load(f"configs/cold.py:{name}", UNET)).method.parts.schedule, Clock)


def test_mixing_takes_a_file_of_images(tmp_path):
    np.save(tmp_path / "mix.npy", RNG.normal(size=(5, 8, 8, 1)))
    built = build_run(runs.load("configs/cold.py:mix", [*UNET, f"process.images={tmp_path / 'mix.npy'}"]))
    assert built.method.parts.process.images.shape == (5, 8, 8, 1)
    with pytest.raises(ValueError, match=r"There is no file"):
        build_run(runs.load("configs/cold.py:mix", [*UNET, f"process.images={tmp_path / 'no.npy'}"]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("sampler.name=ancestral.ddim", "a degradation has a clock alone"),
        ("target.name=Score", "not Gaussian"),
        ("schedule.name=Cosine", "give Rectified"),
        ("process.std=-1.0", "std is -1.0"),
        ("sampler.share=2.0", r"share is 2\.0"),
    ],
)
def test_a_config_that_does_not_go_together_is_one_line(change, message):
    config, (path, value) = runs.load("configs/cold.py:tiny", UNET), change.split("=")
    group, name = path.split(".")
    with config.unlocked():
        if name == "name":
            config[group] = spec(value)
        else:
            config[group][name] = float(value)
    with pytest.raises(ValueError, match=message) as caught:
        build_run(config)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_a_tiny_run_trains_and_reports(tmp_path):
    results = train.run(runs.load("configs/cold.py:tiny", UNET), tmp_path)
    assert results["status"] == "done"
    assert "Frechet distance" in (tmp_path / "report.md").read_text()
