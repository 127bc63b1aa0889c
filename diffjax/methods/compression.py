"""Codecs that are trained for their codes: an encoder, a bottleneck, a decoder, and maybe an adversary.

    L = |x - D(q(E(x)))| + what the bottleneck costs + f w L_gan        (`bottlenecks`, `losses.autoencode`)

Rombach et al. 2022 (`kl`), van den Oord et al. 2017 (`vq`), Mentzer et al. 2023 (`fsq`), Jang et al. 2017 and Ramesh et
al. 2021 (`gumbel`), Esser et al. 2021 (`vq_gan`).
`codecs.of(run)` is what a second model is trained on (`data.latents`); `methods.autoencoder` is the model of its own,
with a bound of the likelihood, that such a codec is none.

A table that follows running means is a player, "codebook", whose turn has the loss 1/2 |p - sg(p')|^2 of its parameters
p and the next ones p': plain gradient descent of rate 1 moves it there, by an optimizer of the turn's own, so that a
run's optimizer is the codec's alone. Deviation: the table follows examples of its own, encoded after the codec's turn;
published are those that moved the codec. The adversary is the player "critic" (`estimates.Critic`, a logistic one), and
the codec then the player "codec"; begin such a run from a finished one without it (train.start), since an adversary of
bad reconstructions teaches nothing.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.tree_util import Partial

from diffjax import host
from diffjax.codecs import Codec
from diffjax.losses import autoencode, matching
from diffjax.method import KEY_AXES, Example, Keys, Method, Section, Turn, keys_of, per_example
from diffjax.methods import codec_report, shapes
from diffjax.methods.bottlenecks import Bottleneck, Choice, Normal, Scalar, Vector
from diffjax.methods.estimates import Critic
from diffjax.methods.examples import check_real
from diffjax.types import Array, Key, PyTree

__all__ = ["fsq", "gumbel", "kl", "kl_gan", "vq", "vq_gan"]  # what a config may name
FOLLOWING = optax.sgd(1.0)  # the one that moves a table to its next running means
DISTANCES = {"l1": autoencode.l1, "l2": autoencode.l2}


class Compression(NamedTuple):
    """The parts of a codec in training.

    Attributes:
        encoder, decoder: networks of one example, that read nothing of what is given.
        bottleneck: what passes between them.
        distance: "l1" or "l2".
        critic: the adversary, an `estimates.Critic`; None: there is none.
        factor: of the adversary's loss, beside its weight.
        last: the path of the decoder's last layer, by which that weight is taken.
    """

    encoder: Any
    decoder: Any
    bottleneck: Bottleneck
    distance: str = "l1"
    critic: Critic | None = None
    factor: float = 1.0
    last: str = "conv_out/kernel"

    check_examples = check_real

    def whole(self, params: PyTree) -> PyTree:
        """Gives {"encoder", "decoder", "codebook" or none}, whoever moves them."""
        codec = params.get("codec", params)
        return {"codebook": params.get("codebook", codec.get("codebook")), **codec}

    def written(self, params: PyTree, x: Array, **options: Any) -> Array:
        """Computes the encoder's h of an example."""
        return self.encoder.apply(self.whole(params)["encoder"], x, jnp.zeros(()), {}, **options)

    def encode(self, params: PyTree, x: Array) -> Array:
        """Computes the code of an example."""
        return self.bottleneck.encode(self.whole(params)["codebook"], self.written(params, x))

    def std(self, params: PyTree, x: Array) -> Array:
        """Computes the standard deviation of a code drawn of an example; of a normal bottleneck alone."""
        return self.bottleneck.std(self.written(params, x))  # pyright: ignore[reportAttributeAccessIssue]

    def decode(self, params: PyTree, code: Array) -> Array:
        """Computes the example of a code."""
        own = self.whole(params)
        return self.decoder.apply(own["decoder"], self.bottleneck.decode(own["codebook"], code), jnp.zeros(()), {})

    def codec(self, params: PyTree) -> Codec:
        """Makes the codec of these parameters."""
        std = Partial(self.std, params) if hasattr(self.bottleneck, "std") else None
        return Codec(Partial(self.encode, params), Partial(self.decode, params), std, self.bottleneck.codes)

    def likelihood(self, run: Any, most: int = 0) -> Section:
        """Raises the ValueError that says why there is none."""
        raise ValueError(
            "This run has no likelihood: its decoder states no law of an example, only one; methods.autoencoder is the "
            "codec that bounds it."
        )

    def held_out(self, run: Any) -> float:
        """Measures the squared error of held-out examples per entry; `checkpoint.best_by=held_out` ranks by it."""
        x = run.data.some("held_out", codec_report.MOST).x
        return float(np.mean((codec_report.trips(self, run.params, x)[1] - x) ** 2, dtype=np.float64))

    def how(self) -> str:
        """Says how samples are made, for a report."""
        return "decoded codes that were drawn without a second model, places apart"

    def method(self) -> Method:
        """Makes the method of these parts."""
        return _method(self)


def kl(encoder: Any, decoder: Any, beta: float = 1e-6, distance: str = "l1") -> Method:
    """Makes the method of a codec of real codes, drawn normally around what the encoder says.

    Args:
        encoder: network from an example to mean and log-variance, beside each other on the last axis.
        decoder: network from a code to an example.
        beta: weight of the KL in nats, where distances are summed over entries.
        distance: "l1" or "l2".

    Raises:
        ValueError: for numbers out of range, or networks that do not fit each other and the data.
    """
    return Compression(encoder, decoder, Normal(beta), distance).method()


def vq(
    encoder: Any,
    decoder: Any,
    codes: int,
    commitment: float = 0.25,
    decay: float | None = 0.99,
    dead: float = 0.05,
    distance: str = "l2",
) -> Method:
    """Makes the method of a codec of whole codes, the nearest of K vectors at each place.

    Args:
        encoder: network from an example to vectors (..., d).
        decoder: network from such vectors to an example.
        codes, commitment, decay, dead: as `bottlenecks.Vector` says.
        distance: "l1" or "l2".

    Raises:
        ValueError: as of `kl`.
    """
    return Compression(encoder, decoder, Vector(codes, commitment, decay, dead), distance).method()


def fsq(encoder: Any, decoder: Any, levels: tuple[int, ...] = (8, 6, 5), distance: str = "l2") -> Method:
    """Makes the method of a codec of whole codes, a rounded number for each channel.

    Args:
        encoder: network from an example to (..., d), d the number of levels.
        decoder: network from as many to an example.
        levels: of each channel.
        distance: "l1" or "l2".

    Raises:
        ValueError: as of `kl`.
    """
    return Compression(encoder, decoder, Scalar(tuple(levels)), distance).method()


def gumbel(
    encoder: Any,
    decoder: Any,
    codes: int,
    width: int = 8,
    tau: float = 1.0,
    hard: bool = True,
    beta: float = 0.01,
    distance: str = "l2",
) -> Method:
    """Makes the method of a codec of whole codes that are drawn by logits, at each place one of K.

    Args:
        encoder: network from an example to logits (..., K).
        decoder: network from (..., width) to an example.
        codes, width, tau, hard, beta: as `bottlenecks.Choice` says.
        distance: "l1" or "l2".

    Raises:
        ValueError: as of `kl`.
    """
    return Compression(encoder, decoder, Choice(codes, width, tau, hard, beta), distance).method()


def vq_gan(
    encoder: Any,
    decoder: Any,
    critic: Any,
    codes: int,
    commitment: float = 0.25,
    distance: str = "l1",
    h: str | Callable = "gan",
    r1: float = 0.0,
    factor: float = 1.0,
    last: str = "conv_out/kernel",
) -> Method:
    """Makes the method of `vq`, its table moved by a gradient, against a critic of examples and reconstructions.

    It begins from a run of `vq` with decay=None (train.start), whose parameters are those of its player "codec".

    Args:
        critic: network of an example whose outputs add up to the log density ratio.
        h: a name of `matching.H`, or an increasing function of the logit: the codec climbs it.
        r1: weight of the critic's squared slope at data.
        factor: of the adversary's loss, beside its adaptive weight.
        last: the path of the decoder's last layer.
        encoder, decoder, codes, commitment, distance: as of `vq`.

    Raises:
        ValueError: as of `kl`, for a last layer that the decoder has not, or a critic that reads what is given.
    """
    bottleneck = Vector(codes, commitment, None)
    return Compression(encoder, decoder, bottleneck, distance, Critic(critic, h, r1=r1), factor, last).method()


def kl_gan(
    encoder: Any,
    decoder: Any,
    critic: Any,
    beta: float = 1e-6,
    distance: str = "l1",
    h: str | Callable = "gan",
    r1: float = 0.0,
    factor: float = 1.0,
    last: str = "conv_out/kernel",
) -> Method:
    """Makes the method of `kl` against a critic of examples and reconstructions; arguments as of `kl` and `vq_gan`."""
    return Compression(encoder, decoder, Normal(beta), distance, Critic(critic, h, r1=r1), factor, last).method()


def _method(of: Compression) -> Method:
    if of.distance not in DISTANCES:
        raise ValueError(f"distance is {of.distance!r}, expected {' or '.join(DISTANCES)}.")
    if not 0 <= of.factor < np.inf:
        raise ValueError(f"Got factor = {of.factor!r}, expected that of the adversary's loss, 0 or more.")
    for name, network in (("encoder", of.encoder), ("decoder", of.decoder)):
        if network.reads:
            raise ValueError(
                f"The {name} reads {', '.join(network.reads)}, but a codec knows an example alone: take a network that "
                "reads nothing of what is given."
            )
    if of.critic is not None:
        _check_critic(of.critic)
    climb: Any = None if of.critic is None else matching.increasing(of.critic.h)
    distance, bottleneck = DISTANCES[of.distance], of.bottleneck

    def init(key: Key, example: Example) -> PyTree:
        key_encoder, key_decoder, key_book, key_critic = jax.random.split(key, 4)
        x, zero = example.x, jnp.zeros(())
        encoder = of.encoder.init(key_encoder, x, zero, {})
        h = jax.eval_shape(of.encoder.apply, encoder, x, zero, {})
        book = bottleneck.init(key_book, jnp.zeros(h.shape, h.dtype))
        z = jax.eval_shape(lambda h: bottleneck.decode(book, bottleneck.encode(book, h)), h)
        decoder = of.decoder.init(key_decoder, jnp.zeros(z.shape, z.dtype), zero, {})
        made = jax.eval_shape(of.decoder.apply, decoder, z, zero, {}).shape
        shapes.check_made("decoder", made, x.shape)
        params = {"encoder": encoder, "decoder": decoder}
        apart = {"codebook": book} if bottleneck.follows else {}
        params |= {} if apart or book is None else {"codebook": book}
        if of.critic is None:
            return {"codec": params, **apart} if apart else params
        _leaf(decoder, of.last)
        return {"codec": params, **apart, **of.critic.init(key_critic, example)}

    def trip(params: PyTree, keys: Keys, example: Example) -> tuple[Array, Array, dict[str, Array]]:
        """(the decoded example, loss without an adversary, scalars to log)."""
        key_bottle, key_encoder, key_decoder = jax.random.split(keys.example, 3)
        own, x = of.whole(params), example.x
        h = of.encoder.apply(own["encoder"], x, jnp.zeros(()), {}, train=True, key=key_encoder)
        passed = bottleneck.passed(own["codebook"], key_bottle, h, x.size)
        made = of.decoder.apply(own["decoder"], passed.z, jnp.zeros(()), {}, train=True, key=key_decoder)
        away = distance(x, made)
        return made, away + passed.cost, {"distance": away, **passed.logged}

    def plain(params: PyTree, keys: Keys, example: Example, index: Array, size: int) -> tuple[Array, dict[str, Array]]:
        return trip(params, keys, example)[1:]

    def learn(params: PyTree, keys: Keys, example: Example, index: Array, size: int) -> tuple[Array, dict[str, Array]]:
        keys, rest = (Keys(keys.step, key) for key in jax.random.split(keys.example))
        made = jax.lax.stop_gradient(trip(params, keys, example)[0])
        return of.critic.learn(params, rest, example, made, index, size)  # pyright: ignore[reportOptionalMemberAccess]

    def against(
        params: PyTree, key: Key, batch: Example, index: Array, size: int, gather: Callable = lambda tree: tree
    ) -> tuple[Array, dict[str, Array]]:
        keys, critic = keys_of(key, index), of.critic
        assert critic is not None
        logit = critic.logit(jax.lax.stop_gradient(params["critic"]), {})

        def both(params: PyTree, keys: Keys, example: Example) -> tuple[Array, Array, Array, dict[str, Array]]:
            made, own, logged = trip(params, keys, example)
            return distance(example.x, made), -climb(logit(made, 0.0)), own, logged

        each: Any = jax.vmap(both, (None, KEY_AXES, 0))

        def by_last(leaf: Array, which: int) -> Array:
            decoder = _put(params["codec"]["decoder"], of.last, leaf)
            inner = {**params, "codec": {**params["codec"], "decoder": decoder}}
            return each(inner, keys, batch)[which].mean()

        leaf = _leaf(params["codec"]["decoder"], of.last)
        slopes = (gather(jax.grad(by_last)(leaf, which)[None]).mean(0) for which in (0, 1))
        weight = of.factor * autoencode.adversarial_weight(*slopes)
        _, gan, own, logged = each(params, keys, batch)
        return own + weight * gan, {**logged, "weight": jnp.broadcast_to(weight, gan.shape)}

    def follow(
        params: PyTree, key: Key, batch: Example, index: Array, size: int, gather: Callable = lambda tree: tree
    ) -> tuple[Array, dict[str, Array]]:
        h = gather(jax.vmap(partial(of.written, params))(batch.x))
        book, z = params["codebook"], jax.lax.stop_gradient(h).reshape(-1, h.shape[-1])
        to = jax.lax.stop_gradient(bottleneck.moved(book, key, z))  # pyright: ignore[reportAttributeAccessIssue]
        square = sum(jnp.sum((one - other) ** 2) for one, other in zip(jax.tree.leaves(book), jax.tree.leaves(to)))
        return jnp.broadcast_to(0.5 * square, index.shape), {}  # (latents.7)

    def draw(params: PyTree, request: shapes.Shape, key: Key, given: dict) -> Array:
        code = jax.eval_shape(of.encode, params, jnp.zeros(request.shape))
        return of.decode(params, bottleneck.draw(of.whole(params)["codebook"], key, code.shape))

    apart = of.critic is not None or bottleneck.follows
    turns = () if of.critic is None else (Turn(per_example(learn), "critic"),)
    own = Turn(per_example(plain)) if of.critic is None else Turn(against, coupled=True)
    turns += (own._replace(moves="codec" if apart else None),)
    turns += (Turn(follow, "codebook", coupled=True, by=FOLLOWING),) if bottleneck.follows else ()
    served = ("codec", "codebook") if bottleneck.follows else ("codec",)
    report = partial(codec_report.report, of)
    return Method(init, turns, draw, shapes.plan, served=served if apart else None, parts=of, report=report)


def _check_critic(critic: Critic) -> None:
    critic.check()
    if critic.critic.reads:
        raise ValueError(
            f"The critic reads {', '.join(critic.critic.reads)}, but a reconstruction is judged by itself: take a "
            "network that reads nothing of what is given."
        )
    if critic.pairs or critic.schedule is not None:
        raise ValueError("A codec's critic sees each example as it is: leave its pairs and its schedule out.")


def _leaf(tree: PyTree, path: str) -> Array:
    for i, name in enumerate(names := path.split("/")):
        if not isinstance(tree, dict) or name not in tree:
            options = list(tree) if isinstance(tree, dict) else []
            raise ValueError(
                f"last is {path!r}, but the decoder has no {'/'.join(names[: i + 1])!r}: "
                f"{host.nearest(name, options) if options else 'there is a leaf'}."
            )
        tree = tree[name]
    return tree


def _put(tree: PyTree, path: str, leaf: Array) -> PyTree:
    name, _, rest = path.partition("/")
    return {**tree, name: _put(tree[name], rest, leaf) if rest else leaf}
