"""Pictures of samples: of a step of training, of several averages side by side; of a run, beside real examples."""

from pathlib import Path
from typing import Any

import jax

from diffjax import data, notebook
from diffjax.method import Drawn, Section, attempt
from diffjax.metrics import judges

SHOWN = 64
MOST = 512  # held-out examples that those of each class are picked from


def write(path: Path, step: int, drawn: dict[str, Any], dataset: Any) -> None:
    """Draws samples (n, *shape) by their titles into a picture, and says what is not finite or cannot be drawn."""
    from diffjax import plots

    for title, x in drawn.items():
        if text := judges.said(x):
            print(f"step {step}, {title}: {text}", flush=True)
    groups = jax.tree.map(dataset.shown, drawn)
    for failed in attempt(path.name, lambda: plots.samples(path, groups) or notebook.shown(path)):
        print(failed.text.strip(), flush=True)


def beside(path: Path, run: Any, drawn: Drawn) -> list[Section]:
    """Draws samples, and what they were given, beside held-out examples of a run (`runs.Run`); gives no section."""
    from diffjax import plots

    real = data.undone(run.data).some("held_out", MOST)
    groups = {f"given {name}": part for name, part in drawn.given.items() if part.shape[1:] == run.data.shape}
    groups |= {"samples": run.data.shown(drawn.x), "held out": run.data.shown(real.x)}
    own = {**dict.fromkeys(groups, drawn.given), "held out": real.given}
    labels = {name: given["label"] for name, given in own.items() if "label" in drawn.given}
    plots.samples(path, groups, most=SHOWN, labels=labels, names=run.data.names)
    return []
