"""Bits per dimension of a method that states log p: a density by hand, the bound's parts, what is said of levels."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax import data, methods, models
from diffjax.methods import bound, codelength

V = 0.4


def state(params, key, x, given):
    """Independent N(0, V), whose log p is told in two parts."""
    nats = 0.5 * (jnp.sum(x**2) / V + x.size * jnp.log(2 * jnp.pi * V))
    return codelength.Stated(-nats, x / V**0.5, {"one": 0.25 * nats, "other": 0.75 * nats})


@pytest.fixture(scope="module")
def run():
    mapped = lambda one: jax.jit(jax.vmap(one, (None, 0)))
    return SimpleNamespace(
        data=data.digits(), params={}, step=7, name="run", mapped=mapped, method=SimpleNamespace(asks=())
    )


def test_digits_under_a_density_by_hand(run):
    """Of N(0, V) at digits spread over bins of 1/8: E u^2 is added, and log2 8 = 3 bits for the 17 levels."""
    found = codelength.section(run, state, True, 17)
    results = found.results
    assert results["examples"] == 297
    for part, name in codelength.PARTS.items():
        x = np.asarray(run.data.some(name, 297).x, np.float64)
        square = np.mean(x**2) + (1 / 8) ** 2 / 12
        bits = (square / V + np.log(2 * np.pi * V)) / (2 * np.log(2)) + 3
        assert results["bits"][part]["bits"] == pytest.approx(bits, abs=2e-3)
        assert sum(results["parts"][part].values()) == pytest.approx(bits - 3, abs=2e-3)
        assert results["latents"][part]["std"] ** 2 + results["latents"][part]["mean"] ** 2 == pytest.approx(
            square / V, abs=2e-3
        )
    counted = bound.histograms(run.data.train.x, run.data.held_out.x, 17)
    assert results["baseline"] == {"pixel histograms": pytest.approx(counted, rel=1e-9)}
    assert f"| exact density, uniform dequantisation | {results['bits']['held out']['bits']:.3f} ± " in found.text
    assert "| of it one | " in found.text
    assert "method.levels" not in found.text
    assert [figure.name for figure in found.figures] == ["latents"]


def test_a_model_of_the_lattice_alone_is_told_so(run):
    said = codelength.section(run, state, False, None, most=20)
    assert "variational bound, one draw" in said.text
    assert "digits has 17 levels, method.levels is None: a density at points of a lattice has no maximum" in said.text
    assert codelength.remarks(17, run.data) == []
    (line,) = codelength.remarks(256, run.data)
    assert line.endswith("the noise that training adds is not that of the data's bins; set method.levels=17")
    (line,) = codelength.remarks(17, data.moons(n=20, held_out=8))
    assert "has no levels, method.levels is 17" in line


def test_digits_are_spread_over_their_bins_and_no_further(run):
    x = run.data.some("held_out", 297).x
    u = codelength.spread(x, 0, 17).astype(np.float64) - x
    assert np.abs(u).max() <= 1 / 16 + 1e-6
    assert u.std() == pytest.approx(1 / 8 / 12**0.5, rel=0.01)
    assert codelength.spread(x, 0, None) is x


def test_held_out_data_is_measured_alike_at_every_step(run, capsys):
    """In nats per dimension, of digits that are spread over their bins, or as they are."""
    x = np.asarray(run.data.some("held_out", 297).x, np.float64)
    plain = codelength.held_out(run, state, None)
    assert plain == pytest.approx((np.mean(x**2) / V + np.log(2 * np.pi * V)) / 2, rel=1e-6)
    spread = codelength.held_out(run, state, 17)
    assert spread == pytest.approx(plain, abs=5e-3)
    assert spread != plain
    assert codelength.held_out(run, state, 17) == spread
    assert f"step 7: {spread:.4f} nats per dimension of held-out data" in capsys.readouterr().out


def test_a_generator_of_samples_is_refused_with_the_reason(run):
    net = models.of(models.Perceptron(width=4))
    parts = methods.generators.monoflow(net, models.of(models.Perceptron((), width=4))).parts
    for of in (parts, methods.matching.Matching(None, None)):
        with pytest.raises(ValueError, match=r"^This run has no likelihood: its generator maps noise to samples"):
            of.likelihood(run)
