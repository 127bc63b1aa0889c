"""Sums of the sampler core and of exact targets do not depend on the default precision of products.

On a TPU that default is one pass of bfloat16, on newer NVIDIA cards it may be TF32. Shown in the lowered text of every
family and target, and by an emulation on the CPU: operands of every product of default precision rounded to bfloat16.
"""

import re

import jax
import jax.extend.core
import jax.numpy as jnp
import numpy as np
import pytest
from families import FAMILIES

from diffjax import analytic, couplings, denoisers, divergence, grids, likelihood, samplers
from diffjax.denoisers import inverse, optimal
from diffjax.losses import poisson
from diffjax.schedules import VP
from diffjax.types import Posterior

KEY, X = jax.random.key(0), jnp.asarray([0.3, -1.2, 0.8])
FULL = analytic.gaussian_mixture([0.4, 0.6], [[-1.0, 0, 1], [1.0, 0.5, 0]], [np.diag([0.1, 0.2, 0.3])] * 2)
PLAIN = analytic.gaussian_mixture([0.4, 0.6], [[-1.0, 0, 1], [1.0, 0.5, 0]], [0.1, 0.2])
POINTS = analytic.empirical(np.random.default_rng(0).standard_normal((7, 3)), block=4)


class Half:
    """A model without a product."""

    def __init__(self, schedule):
        self.schedule = schedule

    def __call__(self, x, t):
        return Posterior(0.5 * x, 0.1)


def defaults(function, *args):
    """The products of default precision in the lowered text of a function."""
    text = jax.jit(function).lower(*args).as_text()
    products = re.findall(r"stablehlo\.dot_general.*", text)
    return [line for line in products if "precision = [HIGHEST, HIGHEST]" not in line]


@pytest.mark.parametrize("name", [name for name, family in FAMILIES.items() if not family.slow])
def test_no_sampler_has_a_product_of_default_precision(name):
    sample = FAMILIES[name].sample(3)
    assert defaults(lambda x: sample(Half(FAMILIES[name].schedule), KEY, x), X) == []


def test_nor_along_principal_axes():
    axes = samplers.principal.Axes(
        np.zeros(3), np.ones(3), np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    )
    sample = samplers.sampling_fn(samplers.principal.adams(VP(), axes), grids.angle(VP(), 4))
    assert defaults(lambda x: sample(Half(VP()), KEY, x), X) == []


VERBS = {
    "posterior": lambda target, x: target.posterior(x, 0.8, 0.5),
    "covariance": lambda target, x: target.covariance(x, 0.8, 0.5),
    "score": lambda target, x: target.score(x, 0.8, 0.5),
    "density": lambda target, x: target.log_prob(x, 0.8, 0.5),
    "samples": lambda target, x: target.sample(KEY, 4),
}
TARGETS = {"full": FULL, "isotropic": PLAIN, "points": POINTS}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("verb", VERBS)
def test_nor_has_an_exact_target(target, verb):
    assert defaults(lambda x: VERBS[verb](TARGETS[target], x), X) == []


BESIDE = {
    "divergence": lambda x: divergence.with_value(jnp.tanh, x, divergence.hutchinson(KEY, x, 2)),
    "elbo": lambda x: likelihood.elbo(grids.log_snr(VP(), 3), VP())(Half(VP()), KEY, x),
    "jacobian": lambda x: optimal.jacobian(Half(VP()))(x, 0.5),
    "jacobian, sketched": lambda x: optimal.jacobian(Half(VP()), KEY, rank=1)(x, 0.5),
    "the field of a batch": lambda x: poisson.batch_field(x, 1.0, jnp.ones((4, 3))),
    "distances": lambda x: couplings.squared_distances(x[None], x[None]),
    "an observation": lambda x: inverse.pigdm(Half(VP()), inverse.observe(lambda x: x[:2], jnp.ones(2), (3,), 0.1))(
        x, 0.5
    ),
    "other coordinates": lambda x: denoisers.run_on(Half(VP()), VP(t_max=0.9))(x, 0.5),
    "an angle": lambda x: samplers.encoding.slerp(x, x + 1, 0.3),
}


@pytest.mark.parametrize("what", BESIDE)
def test_nor_has_what_stands_beside(what):
    found = defaults(BESIDE[what], X)
    assert [line for line in found if "precision" in line or "dot_general" in line] == []


def test_the_reader_of_texts_sees_a_default():
    assert len(defaults(lambda x: jnp.vdot(x, x), X)) == 1


# The emulation.


def rounded(function, *args):
    """A function's value where operands of products of default precision are rounded to bfloat16."""
    closed = jax.make_jaxpr(function)(*args)
    return _evaluate(closed.jaxpr, closed.consts, *args)[0]


def _evaluate(jaxpr, consts, *args):
    known = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *args)))
    read = lambda v: v.val if isinstance(v, jax.extend.core.Literal) else known[v]
    for eqn in jaxpr.eqns:
        values, name, p = list(map(read, eqn.invars)), eqn.primitive.name, eqn.params
        inner = next((p[k] for k in ("jaxpr", "call_jaxpr") if k in p), None)
        if inner is not None and not hasattr(inner, "consts"):
            inner = jax.extend.core.ClosedJaxpr(inner, ())
        if name == "scan":  # its columns and stacked results have an axis more than in its body: in every jax
            stacked = lambda outer, body: sum(a.aval.ndim > b.aval.ndim for a, b in zip(outer, body, strict=True))
            m = len(eqn.outvars) - stacked(eqn.outvars, inner.jaxpr.outvars)
            n = len(values) - m - stacked(eqn.invars, inner.jaxpr.invars)
            fixed, carry, columns, out = values[:n], values[n : n + m], values[n + m :], []
            for i in range(p["length"]):
                found = _evaluate(inner.jaxpr, inner.consts, *fixed, *carry, *(column[i] for column in columns))
                carry, row = found[:m], found[m:]
                out.append(row)
            found = [*carry, *(jnp.stack(column) for column in zip(*out))]
        elif name == "dot_general" and p["precision"] in (None, (jax.lax.Precision.DEFAULT,) * 2):
            coarse = [value.astype("bfloat16").astype(value.dtype) for value in values]
            found = [eqn.primitive.bind(*coarse, **p)]
        elif inner is not None:
            found = _evaluate(inner.jaxpr, inner.consts, *values)
        else:
            found = eqn.primitive.bind(*values, **p)
            found = found if eqn.primitive.multiple_results else [found]
        known |= zip(eqn.outvars, found)
    return list(map(read, jaxpr.outvars))


def test_the_emulation_rounds():
    """What a product of default precision would lose: up to 2^-8 of it; and nothing of one that asks for more."""
    a, b = jax.random.normal(KEY, (2, 64))
    exact = float(np.vdot(np.float64(a), np.float64(b)))
    assert abs(float(rounded(lambda a, b: jnp.vdot(a, b), a, b)) - exact) > 1e-4
    assert abs(float(rounded(lambda a, b: jnp.vdot(a, b, precision="highest"), a, b)) - exact) < 1e-5


def test_samples_do_not_feel_the_rounding():
    sample = FAMILIES["adams"].sample(4)
    walk = lambda x: sample(Half(VP()), KEY, x)
    np.testing.assert_allclose(rounded(walk, X), jax.jit(walk)(X), rtol=1e-6)


@pytest.mark.parametrize("target", TARGETS)
def test_nor_do_exact_posteriors(target):
    mean = lambda x: TARGETS[target].posterior(x, 0.8, 0.5).mean
    np.testing.assert_allclose(rounded(mean, X), mean(X), rtol=1e-6)
