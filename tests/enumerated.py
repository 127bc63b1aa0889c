"""What a joint law of a few tokens implies, by enumeration in float64: an independent reading of the formulas.

Places are axes of the joint p, (V,) * L; V in a sequence stands for a hidden token.
"""

import itertools

import numpy as np


def unified_law(vocabulary, length, a, b, m):
    """W(V, L; a, b, m): proportional to 1 + ((a n^2 + b n) mod m), n the index in base V, first place first."""
    n = np.arange(vocabulary**length)
    p = 1.0 + (a * n**2 + b * n) % m
    return (p / p.sum()).reshape((vocabulary,) * length)


def entropy(p):
    """In nats."""
    return -np.sum(p[p > 0] * np.log(p[p > 0]))


def kl(p, q):
    """KL(p | q) in nats."""
    return np.sum(p * np.log(p / q))


def total_variation(p, q):
    """Half the sum of |p - q|."""
    return 0.5 * np.abs(p - q).sum()


def conditional(p, x, place):
    """p(x_place | the seen tokens of x), (V,)."""
    vocabulary = p.shape[0]
    law = p[tuple(slice(None) if token == vocabulary else token for token in x)]
    hidden = [i for i, token in enumerate(x) if token == vocabulary]
    law = law.sum(tuple(axis for axis, i in enumerate(hidden) if i != place))
    return law / law.sum()


def contexts(p):
    """All sequences with some token hidden."""
    vocabulary, length = p.shape[0], p.ndim
    return [x for x in itertools.product(range(vocabulary + 1), repeat=length) if vocabulary in x]


def conditionals(p):
    """{sequence with hidden tokens: {hidden place: (V,) law}}."""
    vocabulary = p.shape[0]
    return {x: {i: conditional(p, x, i) for i, token in enumerate(x) if token == vocabulary} for x in contexts(p)}


def code(x, vocabulary):
    """The number of a state, hidden tokens included, in base V + 1."""
    return int(np.ravel_multi_index(tuple(x), (vocabulary + 1,) * len(x)))


def transition(p, before, after):
    """The matrix of one step of the masked chain, states in base V + 1.

    From the share `before` of hidden tokens to `after`, a hidden token opens with probability 1 - after / before, on
    its own, and is drawn from its conditional given what was seen before the step.
    """
    vocabulary, length = p.shape[0], p.ndim
    matrix, opening = np.zeros(((vocabulary + 1) ** length,) * 2), 1 - after / before
    for x in itertools.product(range(vocabulary + 1), repeat=length):
        hidden = [i for i, token in enumerate(x) if token == vocabulary]
        laws = [np.append(opening * conditional(p, x, i), 1 - opening) for i in hidden]
        for drawn in itertools.product(range(vocabulary + 1), repeat=len(hidden)):
            y = list(x)
            for i, token in zip(hidden, drawn, strict=True):
                y[i] = token
            chance = np.prod([law[token] for law, token in zip(laws, drawn, strict=True)])
            matrix[code(x, vocabulary), code(y, vocabulary)] += chance
    return matrix


def chain(p, shares):
    """The laws of the states along the shares, from all hidden on: (S,) after each step, (S, S) across each."""
    vocabulary, length = p.shape[0], p.ndim
    law = np.zeros((vocabulary + 1) ** length)
    law[-1] = 1.0
    laws, steps = [], []
    for before, after in itertools.pairwise(shares):
        steps.append(law[:, None] * transition(p, before, after))
        law = steps[-1].sum(0)
        laws.append(law)
    return laws, steps


def ancestral(p, steps):
    """The law of what `steps` even steps draw with the exact conditionals, of p's shape."""
    laws, _ = chain(p, np.linspace(1, 0, steps + 1))
    vocabulary = p.shape[0]
    return np.array(laws[-1]).reshape((vocabulary + 1,) * p.ndim)[(slice(vocabulary),) * p.ndim]


# Any process that destroys each place on its own: Q is (V, K), the law of x_t,i for each x_0,i


def noised(p, Q):
    """The law p_t of x_t, (K,) * L."""
    for place in range(p.ndim):
        p = np.moveaxis(np.tensordot(p, Q, (place, 0)), -1, place)
    return p


def known(p, Q, without=False):
    """p(x_0,i | x_t) of every x_t and place, (K,) * L + (L, V); `without`: given all places of x_t but i."""
    vocabulary, length, states = p.shape[0], p.ndim, Q.shape[1]
    found = np.zeros((states,) * length + (length, vocabulary))
    for x in np.ndindex((states,) * length):
        for place in range(length):
            weights = p
            for other, token in enumerate(x):
                if not (without and other == place):
                    weights = weights * Q[:, token].reshape([-1 if a == other else 1 for a in range(length)])
            law = weights.sum(tuple(axis for axis in range(length) if axis != place))
            found[x][place] = law / law.sum() if law.sum() else 1 / vocabulary
    return found


def stepped(law, places):
    """The law after a step that draws each place of its own law: law (K,) * L, places (K,) * L + (L, K)."""
    after = np.zeros_like(law)
    for x in np.ndindex(law.shape):
        if law[x] > 0:
            each = law[x]
            for place in range(law.ndim):
                each = np.multiply.outer(each, places[x][place])
            after += each
    return after


def replacement(alpha, pi, vocabulary):
    """Q of replacement by pi, (V, K)."""
    return alpha * np.eye(vocabulary, len(pi)) + (1 - alpha) * pi


def mixture_walk(p, pi, alphas, share=0.0):
    """The law of samples of the mixtures along falling 1 - alpha, with exact posteriors; p's shape."""
    vocabulary, eye = p.shape[0], np.eye(len(pi))
    law = noised(p, replacement(0.0, pi, vocabulary))
    for a, b in itertools.pairwise(alphas):
        post = known(p, replacement(a, pi, vocabulary))
        keep = (1 - share) * (1 - b) / (1 - a)
        own = np.stack(np.meshgrid(*[np.arange(len(pi))] * p.ndim, indexing="ij"), -1)
        wide = np.concatenate([post, np.zeros((*post.shape[:-1], len(pi) - vocabulary))], -1)
        law = stepped(law, keep * eye[own] + (b - keep * a) * wide + (1 - b - keep * (1 - a)) * pi)
    return law[(slice(vocabulary),) * p.ndim]


def markov_walk(p, pi, alphas, without=True):
    """The law of samples of Markov's posterior along falling 1 - alpha; `without` False: the posterior plugged in."""
    vocabulary, states = p.shape[0], len(pi)
    law = noised(p, replacement(0.0, pi, vocabulary))
    own = np.stack(np.meshgrid(*[np.arange(states)] * p.ndim, indexing="ij"), -1)
    for a, b in itertools.pairwise(alphas):
        estimate = known(p, replacement(a, pi, vocabulary), without)
        step = a / b * np.eye(states) + (1 - a / b) * pi  # q(x_t | x_s), rows x_s
        places = step.T[own] * (estimate @ replacement(b, pi, vocabulary))
        law = stepped(law, places / places.sum(-1, keepdims=True))
    return law[(slice(vocabulary),) * p.ndim]
