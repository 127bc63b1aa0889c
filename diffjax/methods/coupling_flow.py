"""Coupling flow: an invertible network with an exact density, half of x moved by what the other half says.

RealNVP, Dinh, Sohl-Dickstein & Bengio 2017, eq. 9 (kexue 5807): with a mask b of zeros and ones, each layer takes x to

    b x + (1 - b) (x exp(s(b x)) + m(b x)),    log |det| = sum (1 - b) s(b x),

and is undone by (y - m) exp(-s) where b is 0, since b x is still there. Layers of alternating masks take x to z, and

    log p(x) = log N(z; 0, I) + sum of log |det|    (eq. 3).

A draw is the way back from z ~ N(0, T^2 I), the model's own at the temperature T = 1. The mask is a checkerboard: the
parity of the sum of an entry's indices. s is held within its bound by s = bound tanh(raw / bound), where they scale a
tanh by a learned number. There is no batch normalisation and no multi-scale architecture. With a bound of 0 no layer
stretches: NICE (Dinh, Krueger & Bengio 2015; kexue 5776), whose last layer is one learned scale for each entry.

Two couplings of constant s are a block Cholesky factor: every Gaussian in the plane is reached exactly. The density of
data on a lattice has no maximum: what holds grey levels is dequantised first, by noise over its bins (`levels`). Pixels
that then lie in [-h, h] may be taken to the whole line by a logit before all layers (RealNVP, section 4.1):

    y = log p/(1 - p),    p = a + (1 - 2a) (x + h)/(2h),    log |det| = sum log (1 - 2a)/(2h) - log p(1 - p),

so that no draw lies far outside of it. A flow is a homeomorphism: between modes that are apart it leaves filaments.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffjax import host
from diffjax.method import Drawn, Example, Keys, Method, Section, Turn, drawing, per_example
from diffjax.methods import bound as bounds
from diffjax.methods import codelength
from diffjax.methods.examples import check_real
from diffjax.types import Array, Key, PyTree, pytree, static

MOST = 2000  # held-out examples that a report looks at


@pytree
class Warm:
    """How to draw: at a temperature, an example of this shape."""

    temperature: Array
    shape: tuple[int, ...] = static()

    @property
    def nfe(self) -> int:
        """The network's evaluations in one draw: each layer's own network once, which together are the one."""
        return 1


class CouplingFlow(NamedTuple):
    """The layers, as functions of their parameters {"layer_0", ...}; `coupling_flow` says what each option is."""

    network: Any
    layers: int = 6
    bound: float = 2.0
    levels: int | None = None
    logit: float | None = None
    temperature: float = 1.0

    drawn_by = ("temperature",)  # what another draw may change
    check_examples = check_real

    @property
    def maps(self) -> int:
        """How many maps of x a layer's network makes: s and m, or m alone."""
        return 2 if self.bound else 1

    def forward(self, params: PyTree, x: Array, given: dict | None = None, **options: Any) -> tuple[Array, Array]:
        """Computes z, of x's shape, and log |det dz/dx|."""
        log_det = jnp.zeros(())
        if self.logit is not None:
            x, log_det = _opened(x, self.logit, self.levels)
        for i in range(self.layers):
            s, m = self._affine(i, params, x, given, **options)
            x, log_det = x * jnp.exp(s) + m, log_det + jnp.sum(s)  # (realnvp.1)
        if "log_scale" in params:
            x, log_det = x * jnp.exp(params["log_scale"]), log_det + jnp.sum(params["log_scale"])
        return x, log_det

    def backward(self, params: PyTree, z: Array, given: dict | None = None) -> Array:
        """Computes the x that `forward` takes to z."""
        if "log_scale" in params:
            z = z * jnp.exp(-params["log_scale"])
        for i in reversed(range(self.layers)):
            s, m = self._affine(i, params, z, given)
            z = (z - m) * jnp.exp(-s)  # (realnvp.2)
        return z if self.logit is None else _closed(z, self.logit, self.levels)

    def log_prob(self, params: PyTree, x: Array, given: dict | None = None, **options: Any) -> Array:
        """Computes log p(x), in nats."""
        z, log_det = self.forward(params, x, given, **options)
        return log_det - 0.5 * (jnp.sum(z**2) + z.size * jnp.log(2 * jnp.pi))  # (realnvp.3)

    def stated(self, params: PyTree, key: Key, x: Array, given: dict | None) -> codelength.Stated:
        """States log p(x), in nats, and z; the key is of no use, since the density is exact."""
        return codelength.Stated(self.log_prob(params, x, given), self.forward(params, x, given)[0], {})

    def _affine(self, i: int, params: PyTree, x: Array, given: dict | None, **options: Any) -> tuple[Array, Array]:
        """(s, m) of layer i, zero where the mask keeps x."""
        keep = mask(x.shape, i)
        seen = jnp.where(keep, x, 0)
        maps = self.network.apply(params[f"layer_{i}"], seen, jnp.zeros(()), given or {}, **options)
        if not self.bound:
            return jnp.zeros_like(x), jnp.where(keep, 0, maps)
        raw, m = jnp.split(maps, 2, axis=-1)
        s = self.bound * jnp.tanh(raw / self.bound)  # (realnvp.4)
        return jnp.where(keep, 0, s), jnp.where(keep, 0, m)

    def likelihood(self, run: Any, most: int = bounds.MOST) -> Section:
        """Measures the exact density of a run's data, in bits per dimension (`methods.codelength`)."""
        return codelength.section(run, self.stated, True, self.levels, most)

    def held_out(self, run: Any) -> float:
        """Measures -log p of held-out data, in nats per dimension; `checkpoint.best_by=held_out` ranks by it."""
        return codelength.held_out(run, self.stated, self.levels)

    def remarks(self, dataset: Any) -> list[str]:
        """Says in a line where `levels` are not those of a data set."""
        return codelength.remarks(self.levels, dataset)

    def how(self) -> str:
        """Says how samples are made, for a report."""
        return f"the way back through {self.layers} couplings, at temperature {self.temperature:g}"

    def method(self) -> Method:
        """Makes the method of these parts."""
        return coupling_flow(**self._asdict())


def mask(shape: tuple[int, ...], layer: int) -> np.ndarray:
    """Tells which entries of x a layer keeps: one colour of a checkerboard, the other one in the next layer."""
    return np.indices(shape).sum(0) % 2 == layer % 2


def _opened(x: Array, margin: float, levels: int | None) -> tuple[Array, Array]:
    """Takes pixels to the whole line, by the logit; y and log |det|."""
    half = 1 + 1 / ((levels or 2) - 1)
    p = margin + (1 - 2 * margin) * (x + half) / (2 * half)
    slope = jnp.log((1 - 2 * margin) / (2 * half)) - jnp.log(p) - jnp.log1p(-p)
    return jnp.log(p) - jnp.log1p(-p), jnp.sum(slope)  # (realnvp.5)


def _closed(y: Array, margin: float, levels: int | None) -> Array:
    """Takes the whole line to pixels: the inverse of `_opened`."""
    half = 1 + 1 / ((levels or 2) - 1)
    return half * (2 * (jax.nn.sigmoid(y) - margin) / (1 - 2 * margin) - 1)


@drawing("temperature")
def coupling_flow(
    network: Any,
    layers: int = 6,
    bound: float = 2.0,
    levels: int | None = None,
    logit: float | None = None,
    temperature: float = 1.0,
) -> Method:
    """Makes the method of maximum likelihood; the loss is in nats per dimension.

    Args:
        network: one architecture for all layers, with parameters of its own in each: of x's shape to two maps of it
            (models.MLP(outputs=2)), or to one where the bound is 0.
        layers: how many; two or more, so that every entry moves.
        bound: of |s|, the log of the factor by which one layer may stretch an entry; 0: NICE.
        levels: of data on a lattice in [-1, 1], which training spreads over its bins; None: x as it is.
        logit: a, such as 0.05: pixels are taken to the whole line by a logit first; None: they are not.
        temperature: of draws, z ~ N(0, temperature^2): the model's own at 1.

    Raises:
        ValueError: for a number out of range, a logit without levels, or a network of another number of maps.
    """
    of = CouplingFlow(network, host.check_int("layers", layers, 2, most=1024), bound, levels, logit, temperature)
    codelength.check_option(levels)
    if not 0 <= bound < np.inf:
        raise ValueError(f"Got bound = {bound!r}, expected a positive number, or 0 for additive couplings.")
    if not 0 < temperature < np.inf:
        raise ValueError(f"Got temperature = {temperature!r}, expected a positive number; 1 is the model's own.")
    if logit is not None and not 0 < logit < 0.5:
        raise ValueError(f"Got logit = {logit!r}, expected a share between 0 and 0.5, such as 0.05, or None.")
    if logit is not None and levels is None:
        raise ValueError("Got a logit without levels: only pixels are known to lie in [-1, 1]; set method.levels.")

    def init(key: Key, example: Example) -> PyTree:
        x, zero, given = example.x, jnp.zeros(()), example.given
        params = {f"layer_{i}": network.init(jax.random.fold_in(key, i), x, zero, given) for i in range(layers)}
        made = jax.eval_shape(network.apply, params["layer_0"], x, zero, given).shape
        expected = (*x.shape[:-1], of.maps * x.shape[-1])
        if made != expected:
            count = {1: "one map", 2: "two maps"}[of.maps]
            raise ValueError(
                f"The network of a coupling makes {made} of x {x.shape}, expected {count}, {expected}: "
                f"set outputs={of.maps}."
            )
        return params if bound else {**params, "log_scale": jnp.zeros(x.shape)}

    def loss(params: PyTree, keys: Keys, example: Example, index: Array, size: int) -> tuple[Array, dict[str, Array]]:
        key, x = keys.example, example.x
        if levels is not None:
            key_noise, key = jax.random.split(key)
            x = codelength.noised(key_noise, x, levels)
        log_prob = of.log_prob(params, x, example.given, train=True, key=key)
        return -log_prob / example.x.size, {}

    def plan(shape: tuple[int, ...], trace: Any = None) -> Warm:
        return Warm(jnp.float32(temperature), tuple(shape))

    def draw(params: PyTree, request: Warm, key: Key, given: dict) -> Array:
        return of.backward(params, request.temperature * jax.random.normal(key, request.shape), given)

    return Method(init, (Turn(per_example(loss)),), draw, plan, asks=network.reads, parts=of, report=_report(of))


def _report(of: CouplingFlow) -> Any:
    def report(run: Any, drawn: Drawn) -> list[Section]:
        """Nats per dimension of held-out and of training data, beside those of a Gaussian; the way there and back."""
        examples = (run.data.some(part, MOST) for part in ("held_out", "train"))
        held_out, train = (part._replace(x=codelength.spread(part.x, i, of.levels)) for i, part in enumerate(examples))
        names = run.method.asks
        given = lambda example: {k: v for k, v in example.given.items() if names is None or k in names}
        nats = jax.jit(jax.vmap(lambda params, x, g: -of.log_prob(params, x, g) / x.size, (None, 0, 0)))
        back = jax.jit(jax.vmap(lambda params, x, g: of.backward(params, of.forward(params, x, g)[0], g), (None, 0, 0)))
        mean = lambda example: float(np.mean(np.asarray(nats(run.params, example.x, given(example)), np.float64)))
        found = {"value": mean(held_out), "train": mean(train), "gaussian": gaussian_nats(train.x, held_out.x)}
        lost = float(np.max(np.abs(back(run.params, held_out.x, given(held_out)) - held_out.x)))
        shown = {name: "-" if value is None else f"{value:.4f}" for name, value in found.items()}
        spread = "" if of.levels is None else f"; data spread over the bins of its {of.levels} levels"
        said = "".join(f"\n{line}.\n" for line in of.remarks(run.data))
        text = (
            "## Density\n\n| | held out | train | Gaussian fit, held out |\n|---|---|---|---|\n"
            f"| nats per dimension{spread} | {shown['value']} | {shown['train']} | {shown['gaussian']} |\n\n"
            f"The flow and its inverse give held-out examples back within {lost:.1e}.\n{said}"
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
