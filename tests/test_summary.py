"""How reports open: a sentence for a stranger, and what one needs to make the run again; x_0 along a walk."""

import json
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from diffjax import data, denoisers, methods, models, notebook, processes, runs, samplers, schedules, summary
from diffjax.method import Drawn
from diffjax.methods import evaluation
from diffjax.metrics import gate, judges
from diffjax.runs import report
from diffjax.runs.run import abstract_state

CENTRE = np.array([[1.0, 0.0], [-1.0, 0.0]])


def near(params, x, c, given):
    """Predicts x_0 where data is two points, by label: E[x_0 | x_t, label] is the point, whatever x_t is."""
    return params["scale"] * jnp.asarray(CENTRE, x.dtype)[given["label"]]


METHOD = methods.denoising(
    models.from_function(near, {"scale": jnp.ones(()), "unused": jnp.ones((2, 3))}, "label"),
    processes.Gaussian(schedules.VP()),
    denoisers.X0(),
)


@pytest.fixture(scope="module")
def dataset():
    label = np.arange(60) % 2
    x = CENTRE[label] + 0.01 * np.random.default_rng(0).normal(size=(60, 2))
    return data.arrays(x, label=label)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, dataset):
    """Two steps at rate 0, judged: its results, its workdir."""
    workdir = tmp_path_factory.mktemp("summary") / "run"
    options = dict(steps=2, batch_size=8, log_every=2, sample_every=2, checkpoint_every=2, samples=20, chunk=20)
    with runs.Trainer(METHOD, dataset, optimizer=optax.sgd(0.0), workdir=workdir, **options) as trainer:
        run = trainer.train()
        results = trainer.report()
    return run, results, workdir


def test_a_report_opens_with_a_sentence_and_the_facts(trained):
    """Numbers of the data, of the parameters (1 + 6), of eval.json; 40 steps of the default grid."""
    run, results, workdir = trained
    lines = (workdir / "report.md").read_text().splitlines()
    assert lines[0] == "# run: step 2"
    said = lines[2]
    assert said.startswith(
        f"A model with 7 parameters was trained for 2 steps on {len(run.data.train)} examples of arrays; its samples "
        "differ from held-out data by an exact W2 of "
    )
    assert said.endswith("; this data has no gate to pass.")
    found = results["metrics"]["exact W2"]
    numbers = [float(text) for text in re.findall(r"\((\S+), the (?:floor|baseline)\)", said)]
    assert numbers == pytest.approx([found["floor"], found["gaussian"]], rel=0.006)
    cells = dict(re.findall(r"^\| ([\w, ]+) \| (.+) \|$", "\n".join(lines[3:14]), re.MULTILINE))
    kept = json.loads((workdir / "results.json").read_text())
    assert cells["device"] == kept["device"]
    assert cells["evaluations per sample"] == "40"
    assert cells["parameters"] == "7"
    assert float(cells["minutes, until this report"]) <= kept["minutes"] + 0.05
    assert cells["commit"].startswith(kept["commit"] or "not known")
    assert (workdir / "report.html").read_text().count("<img ") == len(list((workdir / "figures").glob("*.png")))


def test_every_picture_has_a_caption(trained):
    blocks = [block.strip() for block in (trained[2] / "report.md").read_text().split("\n\n")]
    pictures = [i for i, block in enumerate(blocks) if block.startswith("![")]
    assert len(pictures) == 5
    for i in pictures:
        assert re.fullmatch(r"\*[^*\n]+\.\*", blocks[i + 1]), blocks[i]


def test_every_metric_of_a_report_is_explained(trained):
    """What it measures and what is good, in a clause; the table is of points, so the metrics of digits are not."""
    _, results, workdir = trained
    text = (workdir / "report.md").read_text()
    table = text.index("| metric | value | floor | Gaussian fit |")
    for name in ("1-NN accuracy", "coverage", "exact W2", "sliced W2"):
        assert any(metric.startswith(name) for metric in results["metrics"])
        (line,) = re.findall(rf"^- \*\*{name}\*\*: .+\.$", text, re.MULTILINE)
        assert text.index(line) > table
        assert f"<li><strong>{name}</strong>: " in (workdir / "report.html").read_text()
    assert "**copied share**" not in text
    assert len(re.findall("^Floor: ", text, re.MULTILINE)) == 1


def test_no_metric_of_a_judge_is_without_a_meaning():
    for name in {*judges.NEEDS, *gate.BOUNDS, "class histogram, total variation"}:
        assert summary.legend({name: {}}).count("- **") == 1, name
    assert summary.legend({"total_variation": {}}) == ""


def test_a_report_without_a_frechet_distance_says_why(trained):
    """Once, where the distances are; digits of all classes have it, of fewer not."""
    text = (trained[2] / "report.md").read_text()
    assert text.count("No Frechet distance: ") == 1
    digits = data.digits()
    drawn = Drawn(digits.held_out.gather(np.arange(297)).x, {})
    few = digits._replace(train=digits.of_label(3).train)
    said = {len(one.present): "".join(part.text for part in judges.judged(drawn, one)) for one in (digits, few)}
    assert "No Frechet" not in said[10]
    assert "| Frechet distance |" in said[10]
    assert "No Frechet distance: " in said[1]


# One line for each object.


def test_an_object_is_one_line(trained, dataset):
    """60 examples, a tenth of each label held out; 1 + 6 numbers are trained."""
    run, _, workdir = trained
    assert repr(run) == f"<Run run: Denoising on arrays (2,), step 2, 7 parameters, workdir {workdir}>"
    shown = (
        f"<Dataset arrays: 54 training and 6 held-out examples of shape (2,), 2 classes, split {dataset.fingerprint}>"
    )
    assert repr(dataset) == shown
    options = dict(optimizer=optax.sgd(0.0), steps=2400, batch_size=8)
    trainer = runs.Trainer(METHOD, dataset, **options)
    assert repr(trainer) == "<Trainer run: Denoising on arrays (2,), step 0 of 2,400, 7 parameters, no workdir>"


def test_a_run_whose_state_is_gone_has_a_line_too(dataset):
    """That of a Trainer which went on: its buffers were given to the next state; and one of shapes alone."""
    trainer = runs.Trainer(METHOD, dataset, optimizer=optax.sgd(0.0), steps=2, batch_size=8)
    run = trainer.run()
    for leaf in jax.tree.leaves(run.state):
        leaf.delete()
    assert repr(run) == "<Run run: Denoising on arrays (2,), step not known, 7 parameters, no workdir>"
    shapes = run._replace(state=abstract_state(trainer.built))
    assert repr(shapes) == repr(run)


METRICS = {"Frechet distance": {"value": 6.007, "floor": 4.451, "gaussian": 63.669}, "exact W2": {"value": 1.0}}


@pytest.mark.parametrize(
    ("results", "said"),
    [
        (
            {"metrics": METRICS, "gate": True},
            "its samples differ from held-out data by a Frechet distance of 6.01, 35 % more than real training "
            "data does (4.45, the floor) and 11 times less than a fitted Gaussian does (63.7, the baseline); it passed "
            "the gate.",
        ),
        ({"metrics": METRICS, "gate": False}, "it did not pass the gate."),
        (
            {"metrics": {"exact W2": {"value": 0.5, "floor": 0.49}}},
            "exact W2 of 0.5, as much as real training data does",
        ),
        (
            {"metrics": {"exact W2": {"value": 0.3, "floor": 0.4, "gaussian": 1.2}}},
            "exact W2 of 0.3, 25 % less than real training data does (0.4, the floor) and 4.00 times less than",
        ),
        (
            {"metrics": {"exact W2": {"value": 0.5, "floor": 0.0}}},
            "exact W2 of 0.5, more than real training data does (0,",
        ),
        ({"metrics": {"class accuracy": {"value": 1.0}}}, "its samples were judged by no distance; this data has no"),
        (
            {"nonfinite": {"count": 3}, "gate": False},
            "3 of its 1,024 samples are not finite, and the others",
        ),
    ],
)
def test_the_sentence_in_words(results, said, trained):
    assert said in summary.sentence(trained[0], {"step": 2, "samples": 1024, "gate": None, **results})


def test_what_a_run_without_a_workdir_does_not_know_is_said(dataset):
    run = runs.Trainer(METHOD, dataset, optimizer=optax.sgd(0.0), steps=1, batch_size=8).run()
    found = summary.facts(run)
    assert found["command"] == found["minutes, until this report"] == "not known: the run has no workdir"
    assert found["parameters"] == "7"


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"minutes": "x", "command": null}', "\x00"])
def test_a_damaged_results_file_stops_no_report(content, trained, tmp_path):
    (tmp_path / "results.json").write_text(content)
    found = summary.facts(trained[0]._replace(workdir=tmp_path))
    assert found["command"] == found["minutes, until this report"] == "not known: not in results.json"


def test_a_hostile_results_file_is_one_line_of_text(trained, tmp_path):
    hostile = {"command": "a `b` |\n# c <script> " + "d" * 999, "commit": "e|\nf", "device": "g\n\nh", "minutes": 1}
    (tmp_path / "results.json").write_text(json.dumps(hostile))
    found = summary.facts(trained[0]._replace(workdir=tmp_path))
    assert not any("\n" in value or re.search(r"(?<!\\)\|", value) for value in found.values())
    assert found["command"].startswith("`a 'b' \\| # c <script> d")
    assert len(found["command"]) < 420
    assert found["commit"].startswith("e\\| f, judged at ")


def test_the_command_is_that_which_was_typed():
    assert summary._command("/a/b/diffjax/main.py --config=c.py") == "python -m diffjax.main --config=c.py"
    assert summary._command("train.py --x") == "train.py --x"


ADAPTIVE = dict(sampler=samplers.ode.probability_flow, grid=lambda schedule: np.array([1.0, 0.1]))


@pytest.mark.parametrize(
    ("method", "nfe"),
    [
        (METHOD, 40),
        (METHOD.parts._replace(grid=lambda s: np.array([1.0, 0.5, 0.25, 0.0])).method(), 3),
        (METHOD._replace(plan=methods.shapes.plan), 1),
        (
            METHOD.parts._replace(sampler=samplers.ode.probability_flow, grid=lambda s: np.array([1.0, 0.1])).method(),
            None,
        ),
        (METHOD._replace(plan=lambda shape, trace=None: ()), None),
    ],
)
def test_the_evaluations_of_a_draw(method, nfe, trained):
    run = trained[0]._replace(method=method)
    assert summary.facts(run)["evaluations per sample"] == ("not fixed" if nfe is None else str(nfe))


def test_x0_along_the_walk_is_the_denoisers(trained):
    """Of this network E[x_0 | x_t] is the label's centre at every time."""
    run, label = trained[0], np.array([0, 1, 1, 0, 1], np.int32)
    walked = np.random.default_rng(1).normal(size=(3, 5, 2)).astype(np.float32)
    found = evaluation.estimates(run, walked, {"label": label}, [0.9, 0.5, 0.1])
    np.testing.assert_allclose(found, np.broadcast_to(CENTRE[label], (3, 5, 2)), atol=1e-6)


def test_the_filmstrip_has_it_and_says_so(trained):
    run = trained[0]
    drawn = report.draw(run)
    section = evaluation.walk(run, drawn)
    (figure,) = [figure for figure in section.figures if figure.kind == "filmstrip"]
    path, times, seen = figure.args
    assert path.shape == seen.shape == (len(times), 20, 2)
    np.testing.assert_allclose(seen[4], CENTRE[drawn.given["label"]], atol=1e-6)
    assert "under it what the network takes x_0 to be" in section.text


class Unable:
    """The parts of a method, without the ability to tell a mean."""

    def __init__(self, parts):
        self.parts = parts

    def __getattr__(self, name):
        if name == "mean_denoiser":
            raise AttributeError(name)
        return getattr(self.parts, name)


def test_parts_without_a_mean_leave_it_out_without_a_word(trained):
    run = trained[0]
    unable = run._replace(method=run.method._replace(parts=Unable(run.method.parts)))
    section = evaluation.walk(unable, report.draw(run))
    assert section.figures[0].args[2] is None
    assert "x_0" not in section.text
    assert section.results == {}


def test_an_estimate_that_fails_takes_no_walk_with_it(trained, monkeypatch):
    def fail(*_):
        raise ValueError("no mean here")

    monkeypatch.setattr(evaluation, "estimates", fail)
    section = evaluation.walk(trained[0], report.draw(trained[0]))
    assert len(section.figures[0].args) == 2
    assert section.results == {"left_out": {"x_0 along the walk": "ValueError: no mean here"}}


def test_a_notebook_shows_the_samples(trained, monkeypatch, tmp_path):
    seen = []
    monkeypatch.setattr(notebook, "show", lambda path: seen.append((path, path.is_file())))
    report.evaluate(trained[0], tmp_path)
    assert seen == [(tmp_path / "figures" / "samples.png", True)]
    assert "IPython" not in sys.modules or not notebook.is_notebook()


def test_images_with_labels_are_drawn_by_class(trained, monkeypatch, tmp_path):
    """What the picture of the samples is asked for: labels of the drawn, of the held-out, names of the classes."""
    from diffjax import plots

    asked = {}
    monkeypatch.setattr(plots, "samples", lambda path, groups, **words: asked.update(words, groups=groups))
    run, n = trained[0], 6
    given = {"label": np.arange(n) % 2}
    report.figures(tmp_path, run, Drawn(np.zeros((n, 2), np.float32), given), [])
    np.testing.assert_array_equal(asked["labels"]["samples"], given["label"])
    held_out = asked["groups"]["held out"]
    np.testing.assert_allclose(CENTRE[asked["labels"]["held out"]], held_out, atol=0.1)
    report.figures(tmp_path, run, Drawn(np.zeros((n, 2), np.float32), {}), [])
    assert asked["labels"] == {}
