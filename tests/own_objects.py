"""Networks of every library, a labelled mixture, and trainers of them: what a user brings of his own."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx

from diffjax import data, denoisers, methods, models, processes, runs, schedules
from diffjax.methods import Method, Turn, per_example

CENTRES, STDS = np.array([[-1.0, 0.5], [0.8, -0.6]]), np.array([0.3, 0.5])  # of the two classes
WIDTH = 64


def mixture(n=4096, seed=0):
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 2, n)
    x = CENTRES[label] + STDS[label][:, None] * rng.normal(size=(n, 2))
    return data.arrays(x.astype(np.float32), label=label)


def features(x, c, label):
    """What a network is told, (6,): the log-SNR c is infinite at the ends."""
    return jnp.concatenate([x, jnp.stack([jnp.tanh(c / 8), jnp.tanh(c / 2)]), jax.nn.one_hot(label, 2)])


class OfNnx(nnx.Module):
    def __init__(self, rngs):
        self.first, self.second = nnx.Linear(6, WIDTH, rngs=rngs), nnx.Linear(WIDTH, WIDTH, rngs=rngs)
        self.last = nnx.Linear(WIDTH, 2, rngs=rngs)

    def __call__(self, x, c, given):
        h = nnx.gelu(self.first(features(x, c, given["label"])))
        return self.last(nnx.gelu(self.second(h)))


class OfLinen(linen.Module):
    reads = {"label": "label"}  # noqa: RUF012

    @linen.compact
    def __call__(self, x, c, label=None, train=False):
        h = features(x, c, label)
        for _ in range(2):
            h = linen.gelu(linen.Dense(WIDTH)(h))
        return linen.Dense(2)(h)


def of_function():
    rng = np.random.default_rng(0)
    sizes = (6, WIDTH, WIDTH, 2)
    params = [
        {"w": rng.normal(size=(m, n)).astype(np.float32) / m**0.5, "b": np.zeros(n, np.float32)}
        for m, n in itertools.pairwise(sizes)
    ]

    def fn(params, x, c, given):
        h = features(x, c, given["label"])
        for layer in params[:-1]:
            h = jax.nn.gelu(h @ layer["w"] + layer["b"])
        return h @ params[-1]["w"] + params[-1]["b"]

    return models.from_function(fn, params)


def of_equinox():
    equinox = pytest.importorskip("equinox")

    class OfEquinox(equinox.Module):
        mlp: equinox.nn.MLP

        def __call__(self, x, c, given):
            return self.mlp(features(x, c, given["label"]))

    return models.of(OfEquinox(equinox.nn.MLP(6, 2, WIDTH, 2, activation=jax.nn.gelu, key=jax.random.key(0))))


NETWORKS = {
    "nnx": lambda: models.of(nnx.jit(OfNnx)(nnx.Rngs(0))),
    "linen": lambda: models.of(OfLinen()),
    "function": of_function,
    "equinox": of_equinox,
}
VP = processes.Gaussian(schedules.VP())


def denoising(network=None, process=VP, target=denoisers.V(), **parts):  # noqa: B008
    return methods.denoising(NETWORKS["linen"]() if network is None else network, process, target, **parts)


def trainer(method=None, dataset=None, optimizer=None, **options):
    return runs.Trainer(
        denoising() if method is None else method,
        SMALL if dataset is None else dataset,
        optimizer=optax.adam(1e-3) if optimizer is None else optimizer,
        **{"batch_size": 32, "log_every": 10, "checkpoint_every": 1000, "sample_every": 1000, **options},
    )


SMALL = mixture(200)
PLAIN = data.arrays(np.asarray(SMALL.train.x))


def pull(params, keys, example, index, size):
    noise = jax.random.normal(keys.example, (2,))
    return jnp.sum((example.x + noise - params["m"]) ** 2), {"t01": jnp.asarray(index, float) / size}


def pulled(dataset=PLAIN, optimizer=None, **options):
    """A trainer of two numbers, pulled to the mean of the data: for tests of runs, whatever they train."""
    init = lambda key, example: {"m": jnp.zeros(2)}
    draw = lambda params, request, key, given: params["m"] + jax.random.normal(key, (2,))
    method = Method(init, (Turn(per_example(pull)),), draw)
    return trainer(method, dataset, optax.sgd(1e-2) if optimizer is None else optimizer, **options)


def two_players(critics=2):
    """A generator of shift and scale against a critic of quadratic logits: two turns of one, one of the other."""
    make = lambda params, key: params["generator"]["a"] * jax.random.normal(key, (2,)) + params["generator"]["b"]

    def logit(params, x):
        own = params["critic"]
        return jnp.sum(own["w"] * x + own["q"] * x**2) + own["c"]

    def init(key, example):
        zeros = {"w": jnp.zeros(2), "q": jnp.zeros(2), "c": jnp.zeros(())}
        return {"critic": zeros, "generator": {"a": jnp.ones(2), "b": jnp.zeros(2)}}

    def judge(params, keys, example, index, size):
        real, fake = logit(params, example.x), logit(params, make(params, keys.example))
        return jax.nn.softplus(-real) + jax.nn.softplus(fake), {"gap": real - fake}

    def forge(params, keys, example, index, size):
        return jax.nn.softplus(-logit(params, make(params, keys.example))), {}

    turns = (*[Turn(per_example(judge), "critic")] * critics, Turn(per_example(forge), "generator"))
    draw = lambda params, request, key, given: make(params, key)
    return Method(init, turns, draw, served=("generator",))


def both():
    return {"critic": optax.sgd(0.1), "generator": optax.adam(1e-2)}
