"""Transport and labels: two clusters, a conditional flow, and how far its samples lie from what was asked for.

    python experiments/flows/conditions.py

2000 points, two balanced classes at (-1, 0) and (1, 0), standard deviation 0.1. An MLP that reads the label is trained
on noise drawn independently, exchanged by optimal transport over the whole batch (as if the label were not read), and
exchanged within each label, exactly and by Sinkhorn. Printed: the rms distance to the own centre (the data's is
sqrt(2) / 10), the share further away than 0.5, and the standard deviation of x by class.
"""

import argparse
from functools import partial

import numpy as np

from diffjax import data, losses, method, runs
from diffjax.config import spec

SIZE, STEPS, SAMPLES, BATCH = 2000, 1500, 400, 256


def clusters() -> tuple[np.ndarray, np.ndarray]:
    """Makes the points (N, 2) and their labels (N,)."""
    label = np.arange(SIZE) % 2
    return np.random.default_rng(0).normal(scale=0.1, size=(SIZE, 2)) + np.stack([2 * label - 1, 0 * label], 1), label


def over_the_batch(process):
    """Transport that is told of no label: what is wrong where the network reads one."""
    prepare = losses.prepare.optimal_transport(process)
    apply = lambda memory, key, batch: batch.choose(z=prepare.apply(memory, key, method.Example(batch.x)).chosen["z"])
    return prepare._replace(apply=apply)


COUPLINGS = {
    "independent": losses.prepare.nothing,
    "transport over the batch": over_the_batch,
    "transport within labels": losses.prepare.optimal_transport,
    "Sinkhorn within labels": partial(losses.prepare.optimal_transport, method="sinkhorn"),
    "within labels, 0.1 of them hidden": losses.prepare.optimal_transport,
}


def measured(name: str) -> str:
    """Trains with one coupling and writes its row."""
    x, label = clusters()
    made = runs.assemble(
        network=spec("MLP", width=64, depth=2, classes=2),
        schedule=spec("Rectified"),
        process=spec("path.rectified"),
        target=spec("Velocity", sigma_data=0.5),
        times=spec("stratified", t_min=1e-3),
        sampler=spec("multistep.adams", order=2),
        grid=spec("uniform", n=40, t_min=0.0),
        prepare=COUPLINGS[name],
    )
    if "hidden" in name:
        condition = made.parts.condition._replace(share=0.1)
        made = made.parts._replace(condition=condition).method()
    optimizer = spec("adam", learning_rate=3e-3, schedule="cosine", warmup_steps=100)
    run = runs.Trainer(made, data.arrays(x, label=label), optimizer=optimizer, batch_size=BATCH, steps=STEPS).train()
    asked = np.arange(SAMPLES) % 2
    drawn = run.draw(SAMPLES, label=asked)
    away = np.linalg.norm(drawn - np.stack([2 * asked - 1, 0 * asked], 1), axis=1)
    spread = ", ".join(f"{drawn[asked == k, 0].std():.3f}" for k in (0, 1))
    return f"| {name} | {np.sqrt((away**2).mean()):.3f} | {(away > 0.5).mean():.3f} | {spread} |"


def main() -> None:
    """Prints the table."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    print("| coupling | rms distance to the own centre | further than 0.5 | std of x by class |\n|---|---|---|---|")
    for name in COUPLINGS:
        print(measured(name), flush=True)


if __name__ == "__main__":
    main()
