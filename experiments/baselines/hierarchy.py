"""DDPM as a variational autoencoder of many latents (kexue 9152): its bound term by term, beside the autoencoder's.

    python experiments/baselines/hierarchy.py                               # in closed form, x ~ N(0, 1/4)
    python experiments/baselines/hierarchy.py --vae=runs/... --chain=runs/vdm-...     # of trained runs on digits

In closed form: nats for each entry, of the chain alpha_k = cos(pi k / (2 (T + 1))) with exact means, by the variance of
its steps. Of runs: bits per dimension of held-out digits. What a chain's encoder costs, its KL, is prior and steps
together; an autoencoder's bound is that of dequantised digits, a chain's of their levels.
"""

import argparse
import math

import numpy as np

from diffjax import ending, runs
from diffjax.method import merged
from diffjax.methods import bound
from diffjax.tabulated import Tabulated
from diffjax.theory import hierarchy

V, LATENTS = 0.25, (1, 4, 16, 64)


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vae")
    parser.add_argument("--chain")
    args = parser.parse_args()
    print("| model | KL: prior | KL: steps | reconstruction | total | above the entropy |\n" + "|---" * 6 + "|")
    for std in (0.1, 0.25):
        closed(f"autoencoder, one learned latent, s = {std}", hierarchy.linear_terms(V, std))
    for T in LATENTS:
        k = np.arange(T + 1)
        schedule, ts = Tabulated(np.log(np.cos(np.pi * k / 2 / (T + 1)))), k[::-1] / T
        for rule in hierarchy.RULES[: 1 if T == 1 else None]:
            closed(f"chain of {T}, variance {rule}", hierarchy.chain_terms(schedule, ts, V, rule))
    if args.vae or args.chain:
        print("\n| run, bits per dimension | KL: prior | KL: steps | reconstruction | total |\n" + "|---" * 5 + "|")
    if args.vae:
        found = runs.open(args.vae)
        said = merged([found.parts("likelihood", "Bits").likelihood(found)])
        rate, total = said["parts"]["held out"]["KL"], said["bits"]["held out"]["bits"]
        print(f"| autoencoder | {rate:.3f} | | {total - rate:.3f} | {total:.3f} |")
    if args.chain:
        found = runs.open(args.chain)
        said = (bound.measure(found, found.parts("process", "A bound by steps"), found.params) or {})["held out"]
        cells = [said[name] for name in ("prior", "diffusion", "reconstruction", "total")]
        print("| chain | " + " | ".join(f"{value:.3f}" for value in cells) + " |")


def closed(name: str, terms: hierarchy.Terms) -> None:
    """Prints a row of terms in closed form."""
    cells = (terms.prior, math.fsum(terms.steps), terms.reconstruction, terms.total)
    print(f"| {name} | " + " | ".join(f"{value:.4f}" for value in cells) + f" | {terms.gap:.2g} |")


if __name__ == "__main__":
    ending.script(main)
