"""Judges a run: sections that its data set and its method give, written as report.md, eval.json and figures/."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from diffjax.data import describe
from diffjax.method import Drawn, Section
from diffjax.metrics.judges import two_samples
from diffjax.runs import workdir as files
from diffjax.runs.run import Run
from diffjax.types import Array

SHOWN = 64


def evaluate(run: Run, out: str | Path) -> dict[str, Any]:
    """Evaluates what a run draws, and writes report.md, eval.json and figures/ into the folder `out`.

    Returns:
        What eval.json holds: step, number of samples, the results of all sections, and the verdict of the data set's
        gate (None for data that has no gate).
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    drawn = draw(run)
    judged = (run.data.judge or two_samples)(drawn, run.data)
    told = [] if run.method.report is None else run.method.report(run, drawn)
    results = {"step": run.step, "samples": len(drawn.x), **merged([*told, *judged])}
    results["gate"] = next((section.passed for section in judged if section.passed is not None), None)
    figures(out / "figures", run, drawn, [*judged, *told])
    table = "".join(section.text for section in judged)
    files.write_atomically(out / "eval.json", json.dumps(results, indent=2))
    files.write_atomically(out / "report.md", text(run, results, table, told))
    print(f"{table}\n{out / 'report.md'}", flush=True)
    return results


def draw(run: Run) -> Drawn:
    """Draws the samples of an evaluation, of seeds 0, 1, ..., with the walk that made them."""
    seeds = range(run.settings.samples)
    given = run.given(seeds)
    found = run.drawer(trace=visible)(run.params, seeds, given)
    x, trajectory = found if isinstance(found, tuple) else (found, None)
    return Drawn(x, given, trajectory)


def visible(state: Any) -> Array:
    """The x of a sampler's state."""
    return getattr(state, "x", state)


def merged(sections: list[Section]) -> dict[str, Any]:
    """Joins the results of sections; tables of one name are one table."""
    found: dict[str, Any] = {}
    for section in sections:
        for name, value in section.results.items():
            found[name] = {**found[name], **value} if name in found else value
    return found


def text(run: Run, results: dict[str, Any], table: str, told: list[Section]) -> str:
    """Writes the report as Markdown."""
    data, how = run.data, getattr(run.method.parts, "how", None)
    by = "" if how is None else f" by {how()}"
    more = "\n".join(section.text for section in told)
    curve = "![training](figures/training.png)"
    more += "" if curve in more else f"\n## Training\n\n{curve}\n"
    return f"""# {run.name}: step {results["step"]}

{describe(data)} (split {data.fingerprint}); {results["samples"]} samples of EMA {run.settings.ema}{by}.

![samples](figures/samples.png)

## Verdict

{table}

{more}"""


def figures(folder: Path, run: Run, drawn: Drawn, sections: list[Section]) -> None:
    """Draws samples beside real data, the curves of training, and what the sections ask for."""
    from diffjax import plots

    real = run.data.held_out.gather(np.arange(min(SHOWN, len(run.data.held_out)))).x
    given = {name: part[:SHOWN] for name, part in drawn.given.items()}
    images = {f"given {name}": part for name, part in given.items() if part.shape[1:] == run.data.shape}
    plots.samples(folder / "samples.png", {**images, "samples": drawn.x[:SHOWN], "held out": real})
    for section in sections:
        for name, kind, args in section.figures:
            getattr(plots, kind)(folder / f"{name}.png", *args)
    logged = [] if run.workdir is None else files.read_metrics(run.workdir)
    if logged:
        steps = [line["step"] for line in logged]
        curves = {
            name: [np.nan if line[name] is None else line[name] for line in logged] for name in ("loss", "grad_norm")
        }
        plots.training_curve(folder / "training.png", steps, curves)
