"""What a codec in training says of itself: decoded examples, what codes take, and the floor of models of its codes."""

from typing import Any

import jax
import numpy as np

from diffjax.method import OF_TRAINING, Drawn, Figure, Section, left_out, metrics_of
from diffjax.methods.autoencoder import pca_error
from diffjax.types import PyTree

MOST, SHOWN = 2000, 32  # held-out examples that a report looks at, and that it shows


def trips(of: Any, params: PyTree, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Computes codes and decoded examples of x (n, ...)."""
    code = np.asarray(jax.jit(jax.vmap(of.encode, (None, 0)))(params, x))
    return code, np.asarray(jax.jit(jax.vmap(of.decode, (None, 0)))(params, code))


def report(of: Any, run: Any, drawn: Drawn) -> list[Section]:
    """Reports decoded held-out examples beside PCA and mixed codes, what codes take, and what judges say."""
    held_out, train = (run.data.some(part, MOST) for part in ("held_out", "train"))
    (code, made), decode = trips(of, run.params, held_out.x), jax.jit(jax.vmap(of.decode, (None, 0)))
    error = lambda y: float(np.mean((y - held_out.x) ** 2, dtype=np.float64))
    numbers = int(np.prod(code.shape[1:]))
    rng, flat = np.random.default_rng(0), code.reshape(len(code), numbers)
    mixed = rng.permuted(flat, axis=0).reshape(code.shape)  # each place of another example: the negative control
    found = {
        "value": error(made),
        "pca": pca_error(train.x, held_out.x, numbers) if numbers < min(len(train.x), train.x[0].size) else None,
        "mixed": error(np.asarray(decode(run.params, mixed))),
    }
    written = np.asarray(jax.jit(jax.vmap(of.written, (None, 0)))(run.params, held_out.x))
    cost = of.bottleneck.bits(of.whole(run.params)["codebook"], written)
    shown = lambda value: "-" if value is None else f"{value:.5f}"
    text = (
        f"## Codec\n\n| codes {code.shape[1:]} | this codec | PCA of {numbers} numbers | mixed codes |\n"
        "|---|---|---|---|\n"
        f"| squared error per entry, held out | {' | '.join(map(shown, found.values()))} |\n\n"
        f"A code takes: {', '.join(f'{name} {value:.6g}' for name, value in cost.items())}.\n\n"
        "![reconstructions](figures/reconstructions.png)\n\n*Held-out examples, and what is decoded of their codes.*\n"
    )
    figures = Figure("reconstructions", "samples", ({"held out": held_out.x[:SHOWN], "decoded": made[:SHOWN]},))
    return [Section({"reconstruction_error": found, "codes": cost}, text, (figures,)), *_floor(of, run, drawn)]


def _floor(of: Any, run: Any, drawn: Drawn) -> list[Section]:
    """Judges decoded training examples as samples are: what the codec alone costs a model of its codes."""
    if run.data.judge is None:
        return [left_out({"decoded training examples": "this data has no judge of its own"})]
    n, units = len(drawn.x), run.data.units
    train = run.data.train.gather(run.data.places("train", n))
    told = {name: part for name, part in train.given.items() if name in drawn.given}
    decoded = Drawn(run.data.to_data(trips(of, run.params, train.x)[1]), told)
    metrics = metrics_of(run.data.judge(decoded, run.data if units is None else units.undone(run.data)), OF_TRAINING)
    rows = "".join(f"| {name} | {value:.4f} |\n" for name, value in metrics.items())
    text = f"\n### Its codes decoded\n\n| {n} decoded training examples | value |\n|---|---|\n{rows}"
    return [Section({"decoded": metrics}, text)]
