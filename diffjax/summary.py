"""The text of a report, which opens with one sentence for a stranger and with what one needs to make the run again."""

from pathlib import Path
from typing import Any

import jax
import numpy as np

from diffjax import data, disk, environment, ledger
from diffjax.method import Section

FIRST = ("Frechet distance", "exact W2", "sliced W2")  # the distance that the sentence says, the first that there is
BESIDE = (("floor", "real training data", "the floor"), ("gaussian", "a fitted Gaussian", "the baseline"))
LONGEST = 400  # characters of a command
MEANINGS = {  # by how the name of a metric begins: what it measures, and what is good
    "Frechet distance": "how far the samples' features, as a classifier sees them, are from those of held-out data, in "
    "mean and covariance; the smaller the better",
    "1-NN accuracy": "the share of held-out examples (real) or of samples (fake) whose nearest neighbour among both is "
    "of their own kind; about 0.5, or the floor: the two cannot be told apart, 1: they lie apart",
    "coverage": "the share of held-out examples that have a sample as near as their k-th nearest held-out neighbour; "
    "good is the floor, near 1, and 0 says that whole kinds of examples are missing",
    "train-neighbour ratio": "how far a sample is from its nearest training example, as held-out data is; 1 is good, 0 "
    "says copies, more than 1 samples off the data",
    "copied share": "the share of samples nearer to a training example than all but 1 % of held-out data; about 0.01 "
    "is good, 1 says copies",
    "rarest class": "the smallest share of a class among samples over its share in training data; near the floor is "
    "good, 0 says that a class is missing",
    "class histogram": "half the sum of the differences between the classes' shares of samples and of training data; 0 "
    "is good",
    "exact W2": "how far samples have to be moved to become the held-out examples, root mean square; the smaller the "
    "better, down to the floor: far below it samples are alike and not better",
    "sliced W2": "the same way along a random line, root mean square over lines; the smaller the better, as exact W2",
}


def text(run: Any, results: dict[str, Any], table: str, told: list[Section]) -> str:
    """Writes the report of a run as Markdown.

    Args:
        run: what was trained (`runs.Run`).
        results: as eval.json has them.
        table: what samples were judged by.
        told: the other sections.
    """
    how = getattr(run.method.parts, "how", None)
    by = "" if how is None else f" by {how()}"
    skipped = int(run.state.skipped)
    lost = f"\n\n**{skipped} of {run.step} steps were skipped: loss or gradients were not finite.**" if skipped else ""
    more = "\n".join(section.text for section in told)
    curve = "![training](figures/training.png)"
    more += "" if curve in more else f"\n## Training\n\n{curve}\n\n*Loss and gradient norm along the training.*\n"
    return f"""# {run.name}: step {results["step"]}

{opening(run, results)}
{data.describe(run.data)} (split {run.data.fingerprint}); {results["samples"]} samples of EMA {run.settings.ema}{by}.\
{lost}

![samples](figures/samples.png)

*Samples beside held-out examples, a class in each row where labels are given: they should look alike, no two the same.*

## Verdict

{table}
{legend(results.get("metrics", {}))}
{more}"""


def legend(metrics: dict[str, Any]) -> str:
    """Writes what the metrics of a table measure, and what is good, a line each as Markdown; "" for unknown ones."""
    known = [name for name in MEANINGS if any(metric.startswith(name) for metric in metrics)]
    if not known:
        return ""
    beside = (
        "Floor: real training examples in the samples' place, what a perfect model has; Gaussian fit: one Gaussian "
    )
    beside += "with the data's mean and covariance, the baseline."
    return "\n".join(["", *(f"- **{name}**: {MEANINGS[name]}." for name in known), "", beside, ""])


def opening(run: Any, results: dict[str, Any]) -> str:
    """Writes how a report opens, as Markdown: a sentence, and a table of command, commit, device, minutes and cost.

    Args:
        run: what was trained (`runs.Run`).
        results: as eval.json has them.
    """
    rows = [f"| {name} | {value} |" for name, value in facts(run).items()]
    return "\n".join([sentence(run, results), "", "| what | |", "|---|---|", *rows, ""])


def sentence(run: Any, results: dict[str, Any]) -> str:
    """Says what was trained on what, how it did against floor and baseline, and whether the gate was passed."""
    size = parameters(run)
    said = f"A model with {_count(size, 'parameter')} was trained for {_count(results['step'], 'step')} on "
    said += f"{_count(len(run.data.train), 'example')} of {_plain(run.data.name)}; "
    bad, drawn = results.get("nonfinite", {}).get("count", 0), results["samples"]
    of_them = f"{bad:,} of its {_count(drawn, 'sample')} are not finite, and the others" if bad else "its samples"
    return f"{said}{of_them} {_distance(results.get('metrics', {}))}; {_verdict(results.get('gate'))}."


def facts(run: Any) -> dict[str, str]:
    """Collects what one needs to make a run again, and what it cost, by name; what is not known is said to be so."""
    found, now = recorded(run.workdir), environment.environment()
    place = "the run has no workdir" if run.workdir is None else f"not in {ledger.FILE}"
    here = f"{now['device_count']} x {' + '.join(now['devices'])}"
    trained, looked = found.get("commit"), now["commit"]
    commit = looked if "commit" not in found else trained
    also = f", judged at {looked}" if "commit" in found and looked != trained else ""
    minutes = found.get("minutes")
    nfe = getattr(run.method.plan(run.data.shape), "nfe", None)
    return {
        "command": f"`{_command(found['command'])}`" if found.get("command") else f"not known: {place}",
        "commit": (_plain(commit) if commit else "not known: no checkout of the source") + _plain(also),
        "device": _plain(found.get("device") or here),
        "minutes, until this report": f"{minutes:.1f}" if isinstance(minutes, int | float) else f"not known: {place}",
        "evaluations per sample": "not fixed" if nfe is None else f"{nfe:,}",
        "parameters": f"{parameters(run):,}",
    }


def recorded(workdir: Path | None) -> dict[str, Any]:
    """Reads results.json of a workdir; {} where there is none, or it is damaged: it is information, no more."""
    if workdir is None:
        return {}
    try:
        return disk.read_json(Path(workdir) / ledger.FILE)
    except (OSError, ValueError):
        return {}


def parameters(run: Any) -> int:
    """Counts the numbers that training moves."""
    return sum(int(np.prod(np.shape(leaf))) for leaf in jax.tree.leaves(run.state.params))


def line(kind: str, run: Any, config: Any, steps: int | None = None) -> str:
    """Says in one line what a run is: its name, method, data and shape, step, parameters and workdir.

    Args:
        kind: of the object that says so.
        run: what has a method, data, a state and a workdir.
        steps: that it is trained for.
    """
    method = type(run.method if run.method.parts is None else run.method.parts).__name__
    try:
        step = f"{int(run.state.step):,}"
    except (TypeError, RuntimeError):  # a state of shapes alone, or one that has been trained on in its place
        step = "not known"
    words = [
        f"{method} on {run.data.name} {tuple(run.data.shape)}",
        f"step {step}{'' if steps is None else f' of {steps:,}'}",
        _count(parameters(run), "parameter"),
        "no workdir" if run.workdir is None else f"workdir {run.workdir}",
    ]
    return f"<{kind} {'run' if config is None else config.name}: {', '.join(words)}>"


def start(trainer: Any, steps: int) -> str:
    """Says where training (`runs.Trainer`) begins or goes on, of how many steps, and on what devices."""
    known = {0: f"training {steps} steps", steps: f"all {steps} steps are trained"}
    where = known.get(trainer.step, f"resuming at step {trainer.step} of {steps}")
    mesh, several = trainer.mesh, jax.process_count()
    by = f" of {several} processes" if several > 1 else ""
    if trainer.shardings is not None:
        leaves, split = (jax.tree.leaves(tree) for tree in (trainer.state.params, trainer.shardings.params))
        number = sum(not one.is_fully_replicated for one in split)
        by += f", {' x '.join(f'{axis} {size}' for axis, size in mesh.shape.items())}, {number} of {len(leaves)} "
        by += "parameters' arrays split"
    devices = f"{mesh.size} x {mesh.devices.flat[0].device_kind}{by} ({trainer.settings.backend})"
    return f"{where}, {parameters(trainer):,} parameters, {devices}"


def _distance(metrics: dict[str, Any]) -> str:
    """The first distance that was measured, beside that of training data and of a fitted Gaussian, in words."""
    name = next((name for name in FIRST if isinstance(metrics.get(name, {}).get("value"), float)), None)
    if name is None:
        return "were judged by no distance"
    value = metrics[name]["value"]
    beside = [
        f"{_times(value, other)} {what} does ({_number(other)}, {which})"
        for column, what, which in BESIDE
        if isinstance(other := metrics[name].get(column), float)
    ]
    said = f"differ from held-out data by {_article(name)} of {_number(value)}"
    return f"{said}, {' and '.join(beside)}" if beside else said


def _times(value: float, other: float) -> str:
    """How a distance compares with another, in words and a number."""
    if not value > 0 or not other > 0 or 0.95 < value / other < 1.05:
        near = other > 0 and value > 0
        return "as much as" if near or value == other else "more than" if value > other else "less than"
    ratio, sign = max(value, other) / min(value, other), "more" if value > other else "less"
    if ratio < 1.5:
        return f"{100 * abs(value / other - 1):.0f} % {sign} than"
    return f"{f'{ratio:.2f}' if ratio < 5 else f'{ratio:.0f}'} times {'as much as' if value > other else 'less than'}"


def _verdict(passed: bool | None) -> str:
    if passed is None:
        return "this data has no gate to pass"
    return "it passed the gate" if passed else "it did not pass the gate"


def _article(name: str) -> str:
    return f"an {name}" if name[0] in "aeiou" else f"a {name}"


def _number(value: float) -> str:
    return f"{value:.3g}"


def _count(n: int, of: str) -> str:
    return f"{n:,} {of}{'' if n == 1 else 's'}"


def _command(text: Any) -> str:
    """A command as it was typed: without the path of the module that Python ran."""
    words = _plain(text).replace("`", "'").split(" ")
    if words[0].endswith("diffjax/main.py"):
        words[:1] = ["python", "-m", "diffjax.main"]
    line = " ".join(words)
    return line if len(line) <= LONGEST else f"{line[:LONGEST]}..."


def _plain(text: Any) -> str:
    """One line of a table, whatever is in it."""
    return " ".join(str(text).split()).replace("|", "\\|")
