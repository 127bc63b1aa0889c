"""Judges a run: sections that its data set and its method give, as report.md and .html, eval.json, figures/."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from diffjax import data, disk, draws, ledger, notebook, page, previews, summary
from diffjax.method import Drawn, Section, attempt, merged
from diffjax.metrics import judges
from diffjax.runs import workdir as files
from diffjax.runs.run import Run

WALKS = 8
TRACED = 2**22  # numbers of samples whose walks are all kept; of larger ones only the first WALKS are


def evaluate(run: Run, out: str | Path, times: Callable | None = None, also: Callable | None = None) -> dict[str, Any]:
    """Evaluates what a run draws, and writes report.md, report.html, eval.json and figures/ into the folder `out`.

    A part that fails is left out of it with a word ("left_out"). A notebook shows the picture of the samples.

    Args:
        times: gives the section on where the time went; default as results.json of the run's workdir says.
        also: judges samples, beside the data set's own judge (`metrics.spaces.judge`).

    Returns:
        What eval.json holds: step, number of samples, the results of all sections, and the verdict of the data set's
        gate (None for data that has no gate); "nonfinite" counts samples that are not finite, if there are any.
    """
    out = Path(out)
    data.check_here(run.data)
    out.mkdir(parents=True, exist_ok=True)
    label = data.label_of(run.method, run.data, run.settings.label)
    drawn, seen = draw(run), data.undone(run.data.of_label(label))
    mine, x = run.method.report, run.data.to_data(drawn.x)
    judged = judges.judged(drawn._replace(x=x), seen, also)
    told = [] if mine is None else attempt("the method's own report", lambda: mine(run, drawn))
    drawings = figures(out / "figures", run, drawn._replace(x=x), [*judged, *told])
    results = {"step": run.step, "samples": len(x), **merged([*told, *judged, *drawings])}
    results["gate"] = next((section.passed for section in judged if section.passed is not None), None)
    table = "".join(section.text for section in judged)
    disk.write(out / "eval.json", json.dumps(results, indent=2))
    spent = times() if times else ledger.table_of(run.workdir) if run.workdir else ""
    page.write(out / "report.md", summary.text(run, results, table, [*told, *drawings]) + spent)
    print(f"{table}\n{out / 'report.md'}", flush=True)
    notebook.show(out / "figures" / "samples.png")
    return results


def draw(run: Run) -> Drawn:
    """Draws the samples of an evaluation, of seeds 0, 1, ..., given what held-out examples are, with their walks."""
    n, words = run.settings.samples, (run.settings.label, run.settings.text)
    given, whole = data.followed(run.method, run.data, n, *words), n * int(np.prod(run.data.shape)) <= TRACED
    found = run.drawer(trace=draws.visible if whole else None)(run.params, range(n), given)
    if not whole:
        few = {name: part[:WALKS] for name, part in given.items()}
        small = run._replace(settings=run.settings._replace(chunk=min(run.settings.chunk, WALKS)))
        walks = small.drawer(trace=draws.visible)(run.params, range(min(n, WALKS)), few)
        found = (found, walks[1]) if isinstance(walks, tuple) else found
    x, trajectory = found if isinstance(found, tuple) else (found, None)
    return Drawn(x, given, trajectory)


def figures(folder: Path, run: Run, drawn: Drawn, sections: list[Section]) -> list[Section]:
    """Draws samples beside real data, the curves of training, and what the sections ask for; says what it could not."""
    from diffjax import plots

    asked = [figure for section in sections for figure in section.figures]
    found = [*attempt("samples.png", lambda: previews.beside(folder / "samples.png", run, drawn))]
    for name, kind, args in asked:
        found += attempt(f"{name}.png", lambda: getattr(plots, kind)(folder / f"{name}.png", *args) or [])  # noqa: B023
    logged = [] if run.workdir is None else files.read_metrics(run.workdir)
    if logged:
        steps = [line["step"] for line in logged]
        curves = {
            name: [np.nan if line[name] is None else line[name] for line in logged] for name in ("loss", "grad_norm")
        }
        found += attempt("training.png", lambda: plots.training_curve(folder / "training.png", steps, curves) or [])
    return found
