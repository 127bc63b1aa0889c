"""UniPC (Zhao et al. 2023): a predictor and a corrector of one more order from the same evaluations, in half log-SNR.

The evaluation at the predicted x_s corrects x_s and then serves the next prediction: one evaluation a step. In the data
prediction, with h = lambda_s - lambda_t, nodes r_k = (lambda_k - lambda_t) / h and D_k = m_k - m_t,

    x_s = sigma_s / sigma_t x_t + alpha_s (1 - e^(-h)) m_t - alpha_s B(h) sum_k rho_k D_k / r_k,
    sum_k r_k^(i - 1) rho_k = -1 / B int_0^1 h e^(-h (1 - u)) u^i du.

B = -h (bh1) or e^(-h) - 1 (bh2) enters only where the published rule fixes rho = 1/2, in the predictor of order 2 and
the corrector of order 1; solving there too makes B cancel: `variant="exact"`.
"""

import numpy as np

from diffjax import host
from diffjax.samplers import table
from diffjax.samplers.base import Sampler
from diffjax.samplers.multistep import exponential_moment
from diffjax.types import Schedule

VARIANTS = ("bh1", "bh2", "exact")


def unipc(schedule: Schedule, order: int = 3, variant: str = "bh2", lower_final: bool = True) -> Sampler:
    """Makes the UniPC-p sampler (Zhao et al. 2023, algorithms 5 to 8): starts at order 1, last step uncorrected.

    Args:
        order: p of the predictor, 1 to 3; the corrector has order p + 1.
        variant: "bh1", "bh2" or "exact".
        lower_final: end with orders p - 1, ..., 1.

    Raises:
        ValueError: for another order or variant.
    """
    order = host.check_order(order, (1, 2, 3), "The order of UniPC")
    if variant not in VARIANTS:
        raise ValueError(f"The variant of UniPC is {variant!r}, expected one of {', '.join(VARIANTS)}.")

    def program(walk: table.Walk) -> table.Form:
        levels = walk.levels
        x, past, steps = walk.start, [(levels[0], walk.evaluate(walk.start, levels[0]))], len(levels) - 1
        for i, then in enumerate(levels[1:]):
            p = min(order, i + 1, steps - i if lower_final else order)
            usable = [entry for entry in past if np.isfinite(entry[0].lam)][:p]
            arrives = i == steps - 1
            if not (usable and past[0][0] is usable[0][0] and np.isfinite(then.lam)):  # from alpha = 0, or to sigma = 0
                x = table.ddim_of_mean(x, past[0][1], past[0][0], then)
                if not arrives:
                    past = [(then, walk.evaluate(x, then)), *past][:order]
                continue
            predicted = _update(x, usable, then, variant)
            if arrives:
                return predicted
            new = (then, walk.evaluate(predicted, then))
            x, past = _update(x, usable, then, variant, new), [new, *past][:order]
        return x

    return table.sampler(schedule, program, order + 1, order=order + 1)


def _update(x: table.Form, past: list, then: table.Level, variant: str, new: tuple | None = None) -> table.Form:
    """Computes x_s from (level, mean) of the last p evaluations, newest first; corrected with `new`, that at s."""
    (now, mean), *older = past
    h, nodes = then.lam - now.lam, [*older, *([] if new is None else [new])]
    base = then.sigma / now.sigma * x - then.alpha * np.expm1(-h) * mean
    if not nodes:
        return base
    r = np.asarray([(level.lam - now.lam) / h for level, _ in nodes])
    b_of_h = -h if variant == "bh1" else np.expm1(-h)  # (unipc.3)
    moments = np.asarray([-exponential_moment(i, h) for i in range(1, len(r) + 1)])
    fixed = variant != "exact" and len(r) == 1
    # (unipc.2)
    rho = np.asarray([0.5]) if fixed else np.linalg.solve(np.vander(r, increasing=True).T, moments / b_of_h)
    return base - then.alpha * b_of_h * sum(w / q * (m - mean) for w, q, (_, m) in zip(rho, r, nodes))  # (unipc.1)
