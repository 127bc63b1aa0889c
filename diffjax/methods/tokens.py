"""What a run of tokens says of itself in its report: the loss by time, and the bound on held-out examples."""

from typing import Any

import jax
import numpy as np

from diffjax.likelihood import tokens
from diffjax.method import Figure, Section
from diffjax.methods import evaluation, planning
from diffjax.methods.examples import check_whole

JUDGED = 4096  # held-out examples whose bound a report takes, and
PASSES = 8  # the times, or numbers of hidden tokens, that each of them is looked at with
LOOKED = 2**20  # examples of each part whose tokens are looked at before anything runs


def check_tokens(dataset: Any, vocabulary: int) -> None:
    """Holds a vocabulary against a data set of tokens.

    Raises:
        ValueError: for examples that are no tokens, tokens outside 0 .. vocabulary - 1, in either part, or more of them
            than its codec decodes.
    """
    check_whole(dataset.some("train", 1).x[0], dataset)
    for part, said in (("train", ""), ("held_out", ", held out,")):
        tokens.check_tokens(dataset.some(part, LOOKED).x, vocabulary, f"{dataset.name}{said}")
    if vocabulary > (codes := getattr(dataset.units, "codes", None) or vocabulary):
        raise ValueError(
            f"The vocabulary is {vocabulary}, but {dataset.name} has a codec of {codes} codes, which decodes no others "
            f"that might be drawn: set vocabulary={codes} (method.vocabulary and, of a Transformer, model.vocabulary)."
        )


def sections(run: Any, of: Any, name: str) -> list[Section]:
    """Makes the sections of a run of tokens.

    Args:
        of: its parts, a `methods.Discrete`.
        name: of the table of the bound in eval.json.
    """
    return [losses(run), bounds(run, of, name)]


def losses(run: Any) -> Section:
    """Measures the training loss by t / t_max, on held-out and on training examples."""
    held_out = run.data.some("held_out", evaluation.MOST)
    curve, bins = evaluation.curve(run, run.method.turns[0].losses), run.settings.time_bins
    train = run.data.some("train", len(held_out.x))
    curves = {"held out": curve(run.params, held_out), "train": curve(run.params, train)}
    edges = np.linspace(0, 1, bins + 1).tolist()
    means = " | ".join(f"{found['mean']:.4f}" for found in curves.values())
    text = f"""## Loss by time

| held out | train |
|---|---|
| {means} |

![loss by time](figures/loss_by_time.png)

*The loss at each time: held-out examples beside as many training examples.*
"""
    plotted = {name: [np.nan if v is None else v for v in found["bins"]] for name, found in curves.items()}
    figure = Figure("loss_by_time", "loss_by_time", (edges, plotted))
    results = {"held_out_loss": curves["held out"]["mean"], "loss_by_time": {"edges": edges, **curves}}
    return Section(results, text, (figure,))


def bounds(run: Any, of: Any, name: str) -> Section:
    """Measures the bound on held-out examples, beside what a product of the places' marginals makes of them."""
    process, chain = of.process, planning.steps_of(of.loss)
    examples = run.data.some("held_out", JUDGED)
    n, size = len(examples.x), int(np.prod(examples.x.shape[1:]))
    tokens.check_tokens(examples.x, process.vocabulary, f"{run.data.name}, held out,")
    known = run.data.some("train", 25 * JUDGED).x
    product = tokens.marginals_nats(known, examples.x, process.vocabulary)
    results = {"product_of_marginals": product, "unit": "nats/token"}
    beside = f"A product of the places' marginals: {product:.4f}; all tokens alike: {np.log(process.vocabulary):.4f}.\n"
    u = (np.arange(n * PASSES).reshape(n, PASSES) * (0.5 * (5**0.5 - 1)) + 0.5 / (n * PASSES)) % 1.0
    keys = jax.random.split(jax.random.key(0), n)

    @jax.jit
    def measured(params: Any, rows: Any) -> Any:
        def one(row: Any) -> Any:
            key, x, given, u = row
            denoise = of.known(params, process.given(key, given, x.shape, x))
            return jax.vmap(lambda key, u: tokens.bound(denoise, key, x, u, chain))(jax.random.split(key, PASSES), u)

        return jax.lax.map(one, rows, batch_size=256)

    rows = (keys, jax.numpy.asarray(examples.x), examples.given, jax.numpy.asarray(u, jax.numpy.float32))
    found = np.asarray(measured(run.params, rows), np.float64).mean(1) / size
    bound, error = found.mean(), found.std() / np.sqrt(n)
    times = "" if chain is None else f" in {chain} whole steps"
    text = (
        f"\n## Bound\n\nBound on -log p(x){times}, {n} held-out examples: {bound:.4f} ± {error:.4f} nats per token "
        f"({bound / np.log(2):.4f} bits).\n{beside}"
    )
    own = {"bound": float(bound), "bound_error": float(error), "bits_per_token": float(bound / np.log(2))}
    return Section({name: own | results}, text)
