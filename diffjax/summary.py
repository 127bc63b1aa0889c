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

{more}"""


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
    ratio = max(value, other) / min(value, other)
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
