"""Coupling flow: an invertible network with an exact density, half of x moved by what the other half says (RealNVP).

Dinh, Sohl-Dickstein & Bengio 2017, eq. 9 (kexue 5807): with a mask b of zeros and ones, each layer takes x to

    b x + (1 - b) (x exp(s(b x)) + m(b x)),    log |det| = sum (1 - b) s(b x),

and is undone by (y - m) exp(-s) where b is 0, since b x is still there. Layers of alternating masks take x to z, and

    log p(x) = log N(z; 0, I) + sum of log |det|    (eq. 3).

A draw is the way back from z ~ N(0, I). The mask is a checkerboard: the parity of the sum of an entry's indices. s is
held within its bound by s = bound tanh(raw / bound), where they scale a tanh by a learned number. There is no batch
normalisation and no multi-scale architecture.

Two couplings of constant s are a block Cholesky factor: every Gaussian in the plane is reached exactly. The density of
data on a lattice has no maximum: what holds grey levels has to be dequantised first.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffjax import host
from diffjax.method import Drawn, Example, Keys, Method, Section, Turn, per_example
from diffjax.methods import shapes
from diffjax.types import Array, Key, PyTree

MOST = 2000  # held-out examples that a report looks at


class CouplingFlow(NamedTuple):
    """The layers, as functions of their parameters {"layer_0", ...}.

    Attributes:
        network: x of one shape, half of it zeros, to two maps of it, s and m, beside each other on the last axis.
        layers: how many.
        bound: of |s|.
    """

    network: Any
    layers: int = 6
    bound: float = 2.0

    def forward(self, params: PyTree, x: Array, given: dict | None = None, **options: Any) -> tuple[Array, Array]:
        """Computes z, of x's shape, and log |det dz/dx|."""
        log_det = jnp.zeros(())
        for i in range(self.layers):
            s, m = self._affine(i, params, x, given, **options)
            x, log_det = x * jnp.exp(s) + m, log_det + jnp.sum(s)  # (realnvp.1)
        return x, log_det

    def backward(self, params: PyTree, z: Array, given: dict | None = None) -> Array:
        """Computes the x that `forward` takes to z."""
        for i in reversed(range(self.layers)):
            s, m = self._affine(i, params, z, given)
            z = (z - m) * jnp.exp(-s)  # (realnvp.2)
        return z

    def log_prob(self, params: PyTree, x: Array, given: dict | None = None, **options: Any) -> Array:
        """Computes log p(x), in nats."""
        z, log_det = self.forward(params, x, given, **options)
        return log_det - 0.5 * (jnp.sum(z**2) + z.size * jnp.log(2 * jnp.pi))  # (realnvp.3)

    def _affine(self, i: int, params: PyTree, x: Array, given: dict | None, **options: Any) -> tuple[Array, Array]:
        """(s, m) of layer i, zero where the mask keeps x."""
        keep = mask(x.shape, i)
        seen = jnp.where(keep, x, 0)
        maps = self.network.apply(params[f"layer_{i}"], seen, jnp.zeros(()), given or {}, **options)
        raw, m = jnp.split(maps, 2, axis=-1)
        s = self.bound * jnp.tanh(raw / self.bound)  # (realnvp.4)
        return jnp.where(keep, 0, s), jnp.where(keep, 0, m)


def mask(shape: tuple[int, ...], layer: int) -> np.ndarray:
    """Tells which entries of x a layer keeps: one colour of a checkerboard, the other one in the next layer."""
    return np.indices(shape).sum(0) % 2 == layer % 2


def coupling_flow(network: Any, layers: int = 6, bound: float = 2.0) -> Method:
    """Makes the method of maximum likelihood; the loss is in nats per dimension.

    Args:
        network: one architecture for all layers, with parameters of its own in each: of x's shape to two maps of it
            (models.MLP(outputs=2)).
        layers: how many; two or more, so that every entry moves.
        bound: of |s|, the log of the factor by which one layer may stretch an entry.

    Raises:
        ValueError: for fewer layers, a bound that is not positive, or a network of another number of maps.
    """
    of = CouplingFlow(network, host.check_int("layers", layers, 2, most=1024), bound)
    if not 0 < bound < np.inf:
        raise ValueError(f"Got bound = {bound!r}, expected a positive number.")

    def init(key: Key, example: Example) -> PyTree:
        x, zero, given = example.x, jnp.zeros(()), example.given
        params = {f"layer_{i}": network.init(jax.random.fold_in(key, i), x, zero, given) for i in range(layers)}
        made = jax.eval_shape(network.apply, params["layer_0"], x, zero, given).shape
        expected = (*x.shape[:-1], 2 * x.shape[-1])
        if made != expected:
            raise ValueError(
                f"The network of a coupling makes {made} of x {x.shape}, expected two maps, {expected}: set outputs=2."
            )
        return params

    def loss(params: PyTree, keys: Keys, example: Example, index: Array, size: int) -> tuple[Array, dict[str, Array]]:
        log_prob = of.log_prob(params, example.x, example.given, train=True, key=keys.example)
        return -log_prob / example.x.size, {}

    def draw(params: PyTree, request: shapes.Shape, key: Key, given: dict) -> Array:
        return of.backward(params, jax.random.normal(key, request.shape), given)

    return Method(init, (Turn(per_example(loss)),), draw, shapes.plan, asks=network.reads, parts=of, report=_report(of))


def _report(of: CouplingFlow) -> Any:
    def report(run: Any, drawn: Drawn) -> list[Section]:
        """Nats per dimension of held-out and of training data, beside those of a Gaussian; the way there and back."""
        held_out, train = (run.data.some(part, MOST) for part in ("held_out", "train"))
        names = run.method.asks
        given = lambda example: {k: v for k, v in example.given.items() if names is None or k in names}
        nats = jax.jit(jax.vmap(lambda params, x, g: -of.log_prob(params, x, g) / x.size, (None, 0, 0)))
        back = jax.jit(jax.vmap(lambda params, x, g: of.backward(params, of.forward(params, x, g)[0], g), (None, 0, 0)))
        mean = lambda example: float(np.mean(np.asarray(nats(run.params, example.x, given(example)), np.float64)))
        found = {"value": mean(held_out), "train": mean(train), "gaussian": gaussian_nats(train.x, held_out.x)}
        lost = float(np.max(np.abs(back(run.params, held_out.x, given(held_out)) - held_out.x)))
        shown = {name: "-" if value is None else f"{value:.4f}" for name, value in found.items()}
        text = (
            "## Density\n\n| | held out | train | Gaussian fit, held out |\n|---|---|---|---|\n"
            f"| nats per dimension | {shown['value']} | {shown['train']} | {shown['gaussian']} |\n\n"
            f"The flow and its inverse give held-out examples back within {lost:.1e}.\n"
        )
        return [Section({"nats_per_dimension": {**found, "round_trip": lost}}, text)]

    return report


def gaussian_nats(train: np.ndarray, held_out: np.ndarray) -> float | None:
    """Nats per dimension of `held_out` (n, ...) under a Gaussian fitted to `train`; None where it has no density."""
    if np.size(train[0]) >= len(train):  # as many axes as examples are needed, and one for the mean
        return None
    x, y = (a.reshape(len(a), -1).astype(np.float64) for a in (train, held_out))
    cov = np.atleast_2d(np.cov(x.T, bias=True))
    scales, axes = np.linalg.eigh(cov)
    if scales[0] <= 1e-12 * scales[-1]:
        return None
    z = (y - x.mean(0)) @ axes / np.sqrt(scales)
    return float(np.mean(z**2 + np.log(2 * np.pi * scales)) / 2)
