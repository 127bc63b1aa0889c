"""The price of tricks with tokens: what orders, several tokens a step, temperatures, noise and targets cost, exactly.

    python experiments/prices/tokens.py --out=OUT [--smoke]

Laws of samples are enumerated, in float64, from the rows and the rules that the library's samplers plan, on joints of
27 and 16 sequences that one line makes. Writes results.json, table.md and figure.png.
"""

import argparse
import itertools
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffjax import grids, losses, schedules
from diffjax.denoisers.categorical import LeaveOneOut
from diffjax.plots import style
from diffjax.processes import categorical, moving
from diffjax.samplers import categorical as walks
from diffjax.samplers import decoding
from diffjax.types import Categorical

LINE = schedules.Rectified()  # alpha = 1 - t


def joint(vocabulary: int, length: int, a: int, b: int, m: int) -> np.ndarray:
    """W(V, L; a, b, m): proportional to 1 + ((a n^2 + b n) mod m), n the index in base V, first place first."""
    n = np.arange(vocabulary**length)
    p = 1.0 + (a * n**2 + b * n) % m
    return (p / p.sum()).reshape((vocabulary,) * length)


A, B, C = joint(3, 3, 1, 0, 7), joint(3, 2, 1, 0, 7), joint(2, 4, 1, 1, 7)


def kl(p: np.ndarray, q: np.ndarray) -> float:
    """KL(p | q) in nats."""
    return float(np.sum(p * np.log(p / q)))


def tv(p: np.ndarray, q: np.ndarray) -> float:
    """Half the sum of |p - q|."""
    return float(0.5 * np.abs(p - q).sum())


def conditionals(p: np.ndarray, x: tuple) -> np.ndarray:
    """The law of each place given the tokens of x that are seen, (L, V); V stands for a hidden one."""
    vocabulary = p.shape[0]
    law = p[tuple(slice(None) if token == vocabulary else slice(token, token + 1) for token in x)]
    found = np.zeros((p.ndim, vocabulary))
    for i, token in enumerate(x):
        part = law.sum(tuple(a for a in range(p.ndim) if a != i)) / law.sum()
        found[i] = part if token == vocabulary else np.eye(vocabulary)[token]
    return found


def decoded(p: np.ndarray, rule: str, k: Any) -> np.ndarray:
    """The law of what a rule of `samplers.decoding` draws with the exact conditionals, of p's shape.

    What a row opens, and by which score, is the sampler's own; ties, known up to rounding, go to the first place.
    """
    vocabulary, length = p.shape[0], p.ndim
    sampler = getattr(decoding, rule)(categorical.masked(LINE, vocabulary), k)
    rows = sampler.plan(grids.uniform(LINE, length if isinstance(k, int) else len(k), t_min=0.0))
    score = jax.jit(jax.vmap(lambda law, token: sampler.step.score(jax.random.key(0), Categorical(law), token)))
    states = {(vocabulary,) * length: 1.0}
    for count in rows.places:
        cases = []  # (x, its mass, the laws of its places, tokens at all of them, their chance)
        for x, mass in states.items():
            laws = conditionals(p, x)
            if sampler.step.drawn:
                for token in itertools.product(range(vocabulary), repeat=length):
                    if (chance := np.prod(laws[range(length), token])) > 0:
                        cases.append((x, mass, laws, token, chance))
            else:
                cases.append((x, mass, laws, tuple(laws.argmax(-1)), 1.0))
        with np.errstate(divide="ignore"):
            scores = score(np.log([case[2] for case in cases]), np.asarray([case[3] for case in cases]))
        after: dict = defaultdict(float)
        for (x, mass, _, token, chance), found in zip(cases, np.round(np.asarray(scores, float), 10), strict=True):
            hidden = [i for i in range(length) if x[i] == vocabulary]
            best = [sorted(hidden, key=lambda i, found=found: (-found[i], i))[:count]]
            sets = list(itertools.combinations(hidden, min(count, len(hidden)))) if rule == "random" else best
            for places in sets:
                y = tuple(token[i] if i in places else x[i] for i in range(length))
                after[y] += mass * chance / len(sets)
        states = after
    law = np.zeros(p.shape)
    for x, mass in states.items():
        law[x] += mass
    return law


def along(p: np.ndarray, states: int, start: np.ndarray, steps: list) -> np.ndarray:
    """The law at the end of a chain whose places are drawn on their own, by laws (states^L, L, states) of each step."""
    law, shape = start, (states,) * p.ndim
    for places in steps:
        after = np.zeros(shape)
        for code in np.flatnonzero(law):
            product = np.ones(())
            for i in range(p.ndim):
                product = product[..., None] * places[code, i]
            after += law.flat[code] * product
        law = after
    return law[(slice(p.shape[0]),) * p.ndim]


def ancestral(p: np.ndarray, n: int, temperature: float, share: float = 0.0) -> np.ndarray:
    """The law of `samplers.categorical.mixture` on masks in n even steps, with tempered exact conditionals."""
    vocabulary, states = p.shape[0], p.shape[0] + 1
    process = categorical.masked(LINE, vocabulary)
    rows = walks.mixture(process, share).plan(grids.uniform(LINE, n, t_min=0.0))
    sequences = list(itertools.product(range(states), repeat=p.ndim))
    known = np.stack([conditionals(p, x) for x in sequences]) ** (1 / temperature)
    known = np.pad(known / known.sum(-1, keepdims=True), [(0, 0), (0, 0), (0, 1)])
    here, pi = np.eye(states)[np.asarray(sequences)], np.asarray(process.law)
    steps = [keep * here + x0 * known + noise * pi for _, keep, x0, noise in zip(*rows, strict=True)]
    start = np.zeros((states,) * p.ndim)
    start[(-1,) * p.ndim] = 1.0
    return along(p, states, start, steps)


def exact(p: np.ndarray, process: Any, t: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(x_t of all sequences, p(x_0,i | x_t), p(x_0,i | x_t without i)), by enumeration; (S, L), (S, L, V) twice."""
    x = np.stack([i.ravel() for i in np.indices((process.states,) * p.ndim)], -1)
    chance = np.asarray(jax.vmap(lambda x: process.likelihood(x, t))(jnp.asarray(x)))[..., : p.shape[0]]
    laws = []
    for left_out in (False, True):
        found = np.zeros(chance.shape)
        for i in range(p.ndim):
            weight = np.broadcast_to(p, (len(x), *p.shape)).copy()
            for j in range(p.ndim):
                if not (left_out and j == i):
                    weight *= chance[:, j].reshape(len(x), *(-1 if a == j else 1 for a in range(p.ndim)))
            found[:, i] = weight.sum(tuple(1 + a for a in range(p.ndim) if a != i))
        total = found.sum(-1, keepdims=True)
        laws.append(found / np.where(total > 0, total, 1.0))
    return x, *laws


def markov(p: np.ndarray, n: int, estimate: str) -> np.ndarray:
    """The law of `samplers.categorical.markov` in n even steps of uniform replacement, with exact laws."""
    process = categorical.uniform(LINE, p.shape[0])
    rows, steps = walks.markov(process, estimate).plan(grids.uniform(LINE, n, t_min=0.0)), []
    back = jax.jit(jax.vmap(process.back, in_axes=(0, 0, None, None)))
    for t, s in zip(rows.t, rows.s, strict=True):
        x, whole, without = exact(p, process, t)
        steps.append(
            np.asarray(back(jnp.asarray(x), jnp.asarray(without if estimate == "leave_one_out" else whole), t, s))
        )
    return along(p, process.states, np.full(p.shape, 1 / p.size), steps)


def gap(p: np.ndarray, process: Any, nodes: int) -> tuple[float, float]:
    """How far the bound lies above the entropy, with the leave-one-out law, and with the whole law in its place."""
    u, weights = tanh_sinh(nodes)
    bounds = [0.0, 0.0]
    x0 = np.stack([i.ravel() for i in np.indices(p.shape)], -1)

    @jax.jit
    def integrand(table: Any, x: Any, x0: Any, t: Any) -> Any:
        """The score entropy at every (x_t, x_0), weighted by q(x_t | x_0)."""

        def one(row: Any, x: Any, x0: Any) -> Any:
            fixed = Fixed(process, x)
            chance = jnp.prod(process.spread(process.one_hot(x0), t)[jnp.arange(x.size), x])
            value = losses.categorical.score_entropy(lambda *_: row, fixed, LeaveOneOut(), x0, None, t)
            return jnp.where(chance > 0, chance * value, 0.0)

        return jax.vmap(lambda row, x: jax.vmap(lambda x0: one(row, x, x0))(x0))(table, x)

    for t, weight in zip(u, weights, strict=True):
        x, whole, without = exact(p, process, t)
        for i, law in enumerate((without, whole)):
            table = np.log(np.maximum(law, 1e-300))
            bounds[i] += weight * float(np.asarray(integrand(table, x, x0, t)).sum(0) @ p.ravel())
    entropy = -float(np.sum(p * np.log(p)))
    return bounds[0] - entropy, bounds[1] - entropy


class Fixed:
    """A process whose x_t is given, for a loss that makes its own."""

    def __init__(self, process: Any, x: Any):
        self.process, self.x = process, x

    def corrupt(self, x0: Any, z: Any, t: Any) -> Any:
        """Gives that x_t."""
        return self.x

    def __getattr__(self, name: str) -> Any:
        return getattr(self.process, name)


def tanh_sinh(nodes: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights of the integral over (0, 1)."""
    s = np.linspace(-3.0, 3.0, nodes)
    inner = np.pi / 2 * np.sinh(s)
    return 1 / (1 + np.exp(-2 * inner)), (s[1] - s[0]) * np.pi / 4 * np.cosh(s) / np.cosh(inner) ** 2


def zipf(tokens: int) -> np.ndarray:
    """Zipf's law over so many tokens."""
    p = 1.0 / np.arange(1, tokens + 1)
    return p / p.sum()


def of_spacing(p: np.ndarray, ulp: float) -> np.ndarray:
    """What Gumbel noise -log(-log u) of u in multiples of `ulp` draws where p is asked for, p small.

    -log u is a multiple of ulp near u = 1, and all other tokens lie above x with probability e^(-x): a token is drawn
    with the sum over k of ulp e^(-k ulp / p) = ulp / (e^(ulp / p) - 1).
    """
    with np.errstate(over="ignore"):
        return ulp / np.expm1(ulp / p)


def of_bfloat16(p: np.ndarray) -> np.ndarray:
    """The law of argmax(log p + g) with u of 7 bits and the sum rounded to 8 significant bits; ties go to the first."""
    u = np.append(2.0**-126, np.arange(1, 128) / 128)  # 0 is replaced by the least number
    sums = (np.log(p)[:, None] - np.log(-np.log(u))).ravel()
    exponent = np.floor(np.log2(np.abs(sums) + 1e-300))
    sums = np.round(sums * 2.0 ** (7 - exponent)) * 2.0 ** (exponent - 7)
    token = np.repeat(np.arange(len(p)), len(u))
    order = np.lexsort((-token, sums))
    place, seen = token[order], np.tile(np.arange(1, 129), len(p))
    seen = seen[order]  # of each token's own values, how many are at most this one
    with np.errstate(divide="ignore"):
        rises = np.log(seen / 128) - np.where(seen > 1, np.log((seen - 1) / 128), 0.0)
    started = np.cumsum(seen == 1) == len(p)  # before every token has a value below, none can be the largest
    below = np.exp(np.minimum(np.cumsum(rises), 0.0)) * started
    return np.bincount(place, np.diff(below, prepend=0.0), len(p))


def measured(smoke: bool) -> dict[str, Any]:
    """All prices, by name."""
    joints, one = {"A": A, "C": C}, {}
    for rule in decoding.RULES:
        for name, p in joints.items():
            law = decoded(p, rule, 1)
            with np.errstate(divide="ignore"):
                one[f"{rule} {name}"] = {"kl": kl(p, law), "tv": tv(p, law)}
    sets = {"A": [(2, 1), (1, 2), (3,)], "C": [(2, 1, 1), (1, 1, 2), (2, 2), (4,)]}
    several = {f"{name} {k}": kl(joints[name], decoded(joints[name], "random", k)) for name in sets for k in sets[name]}
    lengths = (1, 2, 4, 8) if smoke else (1, 2, 4, 8, 16, 32, 64)
    heat = {str(tau): [kl(A, ancestral(A, n, tau)) for n in lengths] for tau in (1.0, 0.9, 0.8)}
    plugs = (6,) if smoke else (6, 12, 48)
    plug = {name: [kl(A, markov(A, n, name)) for n in plugs] for name in ("leave_one_out", "posterior")}
    processes = {
        "uniform": categorical.uniform(LINE, 3),
        "GIDD, B = 1": moving.gidd(LINE, 3, 1.0),
        "half hidden, half uniform": categorical.mixed(LINE, 3, 0.5),
    }
    gaps = {name: gap(B, process, 21 if smoke else 81) for name, process in processes.items()}
    words = zipf(500 if smoke else 50_000)
    noise = {
        "float32, 2^-23": tv(words, of_spacing(words, 2.0**-23)) + 0.5 * (1 - of_spacing(words, 2.0**-23).sum()),
        "float32, high, 2^-46": tv(words, of_spacing(words, 2.0**-46)),
        "bfloat16": tv(words, of_bfloat16(words)),
    }
    return {
        "one by one": one,
        "several": several,
        "temperature": {"steps": lengths, **heat},
        "plug-in": {"steps": plugs, **plug},
        "gap": gaps,
        "gumbel": noise,
    }


def table(results: dict[str, Any]) -> str:
    """Markdown: one table for each trick."""
    lines = ["| one place a row | KL on A | TV on A | KL on C | TV on C |", "|---|---|---|---|---|"]
    for rule in decoding.RULES:
        cells = [results["one by one"][f"{rule} {name}"][what] for name in "AC" for what in ("kl", "tv")]
        lines.append(f"| {rule} | " + " | ".join(_number(cell) for cell in cells) + " |")
    lines += ["", "| places a row, in a random order | KL |", "|---|---|"]
    lines += [f"| {name} | {value:.6f} |" for name, value in results["several"].items()]
    for title, what in (("temperature", "temperature"), ("Markov's estimate", "plug-in")):
        rows = dict(results[what])
        steps = rows.pop("steps")
        lines += [
            "",
            f"| {title}, KL in steps | " + " | ".join(map(str, steps)) + " |",
            "|---" * (len(steps) + 1) + "|",
        ]
        lines += [f"| {name} | " + " | ".join(f"{value:.5f}" for value in row) + " |" for name, row in rows.items()]
    lines += [
        "",
        "| bound above the entropy of B, nats | leave-one-out | the posterior in its place |",
        "|---|---|---|",
    ]
    lines += [f"| {name} | {_number(exact)} | {slip:.6f} |" for name, (exact, slip) in results["gap"].items()]
    lines += ["", "| Gumbel noise on Zipf's law | TV |", "|---|---|"]
    lines += [f"| {name} | {_number(value)} |" for name, value in results["gumbel"].items()]
    return "\n".join(lines) + "\n"


def _number(value: float) -> str:
    return "inf" if np.isinf(value) else f"{value:.1e}" if abs(value) < 1e-5 else f"{value:.4f}"


def figure(results: dict[str, Any], path: Path) -> None:
    """KL over steps: tempered draws of masks, and Markov's walk by either law."""
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(8.0, 3.2), layout="constrained", dpi=110)
    left, right = drawing.subplots(1, 2, sharey=True)
    rows = dict(results["temperature"])
    steps = rows.pop("steps")
    for name, row in rows.items():
        left.plot(steps, row, "o-", ms=4, label=f"temperature {name}")
    left.set(
        xlabel="steps", ylabel="KL(data | samples), nats", xscale="log", yscale="log", title="masks, in even steps"
    )
    rows = dict(results["plug-in"])
    steps = rows.pop("steps")
    names = {"leave_one_out": "leave-one-out law", "posterior": "posterior in its place"}
    for name, row in rows.items():
        right.plot(steps, row, "o-", ms=4, label=names[name])
    right.set(xlabel="steps", xscale="log", title="uniform replacement, Markov's walk")
    for axes, marks in ((left, results["temperature"]["steps"]), (right, results["plug-in"]["steps"])):
        axes.set_xticks(marks, list(map(str, marks)))
        axes.set_xticks([], minor=True)
        axes.legend(fontsize=8)
    style.save(drawing, path)


def plain(tree: Any) -> Any:
    """Makes plain JSON of results, which has no infinity: null stands for it."""
    if isinstance(tree, dict):
        return {key: plain(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [plain(value) for value in tree]
    return None if isinstance(tree, float) and np.isinf(tree) else tree


def main() -> None:
    """Computes all tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", required=True)
    parser.add_argument("--smoke", action="store_true", help="fewer steps and nodes")
    args = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    results = measured(args.smoke)
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    (out / "results.json").write_text(json.dumps(plain(results), indent=1))
    (out / "table.md").write_text(table(results))
    figure(results, out / "figure.png")


if __name__ == "__main__":
    main()
