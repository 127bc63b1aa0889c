"""The laws of walks that open hidden tokens or set wrong ones right, by enumeration in float64, from a joint p alone.

A law is {sequence: probability}; V in a sequence stands for a hidden token. Rules of decoding are written here anew,
from the sentences of the papers: nothing of the library is called.
"""

import itertools
from collections import defaultdict

import numpy as np
from enumerated import conditional


def decoded(p, rule, counts, temperature=1.0, model=None):
    """The law of what is opened, `counts[i]` places in row i, of p's shape.

    Args:
        model: (x, hidden places) -> {place: (V,) law}; default: the exact conditionals of p.
    """
    vocabulary, length = p.shape[0], p.ndim
    model = model or (lambda x, hidden: {i: conditional(p, x, i) for i in hidden})
    states = {(vocabulary,) * length: 1.0}
    for count in counts:
        after = defaultdict(float)
        for x, mass in states.items():
            hidden = [i for i in range(length) if x[i] == vocabulary]
            laws = model(x, hidden)
            for places, chance, drawn in rule(hidden, laws, min(count, len(hidden)), temperature):
                y = list(x)
                for place, token in zip(places, drawn, strict=True):
                    y[place] = token
                after[tuple(y)] += mass * chance
        states = after
    return as_array(states, p.shape)


def as_array(states, shape):
    """The probabilities of whole sequences."""
    found = np.zeros(shape)
    for x, mass in states.items():
        found[x] += mass
    return found


def tempered(law, temperature):
    """The law to the power 1 / temperature."""
    return law ** (1 / temperature) / (law ** (1 / temperature)).sum()


def draws(places, laws, temperature):
    """All draws of tokens at these places, with their chances."""
    laws = [tempered(laws[i], temperature) for i in places]
    for drawn in itertools.product(*(range(len(law)) for law in laws)):
        yield drawn, float(np.prod([law[token] for law, token in zip(laws, drawn, strict=True)]))


def _even(score):
    """A score without its rounding: places of equal score are opened from the first on."""
    return round(float(score), 10)


def fixed(score):
    """The rule that opens the places of highest score, a function of (place, its law); first places first."""

    def rule(hidden, laws, count, temperature):
        places = sorted(hidden, key=lambda i: (-_even(score(i, laws[i])), i))[:count]
        for drawn, chance in draws(places, laws, temperature):
            yield places, chance, drawn

    return rule


def random(hidden, laws, count, temperature):
    """Any set of so many hidden places, evenly."""
    sets = list(itertools.combinations(hidden, count))
    for places in sets:
        for drawn, chance in draws(places, laws, temperature):
            yield places, chance / len(sets), drawn


def confidence(hidden, laws, count, temperature):
    """A token is drawn everywhere; the draws of highest probability at temperature 1 are kept."""
    for drawn, chance in draws(hidden, laws, temperature):
        by_place = dict(zip(hidden, drawn, strict=True))
        places = sorted(hidden, key=lambda i: (-_even(laws[i][by_place[i]]), i))[:count]
        yield places, chance, [by_place[i] for i in places]


def greedy(hidden, laws, count, temperature):
    """The likeliest token where it is most probable."""
    places = sorted(hidden, key=lambda i: (-_even(laws[i].max()), i))[:count]
    yield places, 1.0, [int(laws[i].argmax()) for i in places]


def _negative_entropy(place, law):
    return float(np.sum(law[law > 0] * np.log(law[law > 0])))


RULES = {
    "random": random,
    "position": fixed(lambda place, law: -place),
    "entropy": fixed(_negative_entropy),
    "top": fixed(lambda place, law: law.max()),
    "confidence": confidence,
    "greedy": greedy,
}


def edited(p, t):
    """The law of x_t of editing, of p's shape: t places of x_0, evenly chosen, hold another token each, evenly."""
    vocabulary, length = p.shape[0], p.ndim
    found = np.zeros(p.shape)
    sets = list(itertools.combinations(range(length), t))
    for x0 in np.ndindex(*p.shape):
        for places in sets:
            for shift in itertools.product(range(1, vocabulary), repeat=t):
                x = list(x0)
                for place, d in zip(places, shift, strict=True):
                    x[place] = (x[place] + d) % vocabulary
                found[tuple(x)] += p[x0] / len(sets) / (vocabulary - 1) ** t
    return found


def wrong_posterior(p, x, t):
    """p(x_0 | x_t = x) of editing, of p's shape: x_0 has t places other than x, all such changes being as probable."""
    index = np.indices(p.shape)
    distance = sum((index[i] != x[i]).astype(int) for i in range(p.ndim))
    law = np.where(distance == t, p, 0.0)
    return law / law.sum()


def marginals(law):
    """The (V,) law of each place, (L, V)."""
    return np.stack([law.sum(tuple(a for a in range(law.ndim) if a != i)) for i in range(law.ndim)])


def mended(p, x, t):
    """The law of x_{t-1} given x_t = x of editing, from the exact joint posterior, of p's shape.

    x_0 is drawn, and one of its t places that differ from x, evenly chosen, is set right.
    """
    found = np.zeros(p.shape)
    law = wrong_posterior(p, x, t)
    for x0 in np.ndindex(*p.shape):
        if law[x0] > 0:
            differing = [i for i in range(p.ndim) if x0[i] != x[i]]
            for place in differing:
                y = list(x)
                y[place] = x0[place]
                found[tuple(y)] += law[x0] / len(differing)
    return found


def counted(laws, x, t):
    """The joint law of independent places given that exactly t of them are not x's, of shape (V,) * L."""
    joint = np.ones(())
    for law in laws:
        joint = joint[..., None] * law
    index = np.indices(joint.shape)
    distance = sum((index[i] != x[i]).astype(int) for i in range(joint.ndim))
    joint = np.where(distance == t, joint, 0.0)
    return joint / joint.sum()
