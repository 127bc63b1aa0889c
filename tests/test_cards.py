"""The cards of docs/cards/: each is whole, its equations are lines of code, its commands are ones that run."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "docs" / "tools"))
import cards  # noqa: E402
import listings  # noqa: E402

COMPLETE = True  # whether every file of docs/methods.md's tables must have a card, and every card its twin

CARD = r"""---
title: DDIM
family: Samplers
files: [diffjax/walk.py]
articles: [9181]
---
# DDIM

It walks from noise to data, e.g. of eq. 12. It is for few steps. Here `eta = 0.5. x` and $a. b$ are no ends.

## Equations

$$ x_s = \alpha_s \hat x_0 + k z \tag{good.1} $$

Here k is a number.

$$
k^2 = \sigma_s^2
  - \nu^2 \tag{good.2}
$$

And nu is the noise's.

## Command

```bash
# draws
python -m diffjax.main --mode=sample --workdir=runs/... \
    --sampler=ancestral.ddim --nfe=10  # ten steps
```

## Measured

The distance is 6.51 at 1,000 evaluations (4c9ce30); `test_walk.py` holds it to 1e-6.

## Pitfalls

- It reads from the grid.
- It stops at zero.

## References

- Song, Meng, Ermon 2020.
- [kexue 9181](https://kexue.fm/archives/9181)
"""
CHINESE = [
    ("title: DDIM", "title: 去噪"),
    ("# DDIM", "# 去噪"),
    (
        "It walks from noise to data, e.g. of eq. 12. It is for few steps. Here",
        "它从噪声走到数据。它用于少步采样。这里的",
    ),
    ("are no ends.", "不是句号。"),
    ("Here k is a number.", "这里k是一个数。"),
    ("And nu is the noise's.", "其中nu来自噪声。"),
    ("# draws", "# 采样"),
    ("# ten steps", "# 十步"),
    ("The distance is 6.51 at 1,000 evaluations (4c9ce30); `test_walk.py` holds it to 1e-6.", ""),
    ("## Measured\n", "## Measured\n\n`test_walk.py`: 1e-6；1000 次计算的距离为 6.51（4c9ce30）。"),
    *zip([f"## {name}" for name in cards.HEADINGS["en"]], [f"## {name}" for name in cards.HEADINGS["zh"]]),
]


@pytest.fixture
def tree(tmp_path):
    """A small repository with what a card speaks of; the recipes are ours."""
    for name in ("diffjax", "docs/cards", "docs/zh/cards", "tests", "experiments/study"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    (tmp_path / "diffjax/walk.py").write_text("x = 1  # (good.1)\n# (good.2): why\ny = 2\n")
    (tmp_path / "docs/methods.md").write_text(
        "## All methods, by family\n\n### Samplers\n\n| method | file |\n|---|---|---|\n| A | `walk.py` | `t` |\n"
    )
    (tmp_path / "docs/series.toml").write_text('[9181]\nzh = "a"\n')
    (tmp_path / "experiments/study/README.md").write_text("6.51 at 1000 (4c9ce30)\n")
    (tmp_path / "tests/test_walk.py").write_text("assert abs(x) < 1e-6\n")
    return tmp_path


def found(tree, text, name="good", zh=None):
    """The mistakes of a card with this text."""
    path = tree / f"docs/cards/{name}.md"
    path.write_text(text)
    if zh is not None:
        (tree / f"docs/zh/cards/{name}.md").write_text(zh)
    return cards.check(path, tree)


def chinese(text=CARD):
    """The card's twin."""
    for english, other in CHINESE:
        assert english in text, english
        text = text.replace(english, other)
    return text


def test_a_card_and_its_twin_pass(tree):
    assert found(tree, CARD, zh=chinese()) == []
    assert list(cards.incomplete(tree)) == []
    card = cards.read(tree / "docs/cards/good.md")
    assert card.command == "python -m diffjax.main --mode=sample --workdir=runs/... --sampler=ancestral.ddim --nfe=10"
    assert (card.ids, card.articles) == (["good.1", "good.2"], (9181,))


BLOCK = CARD[CARD.index("```bash") : CARD.index("## Measured")]
BAD = {  # what is changed -> what is said of it
    "no command": (BLOCK, "", "it has no command"),
    "an empty command": (BLOCK, "```bash\n# nothing\n```\n\n", "it has no command"),
    "an id without code": ("good.2}", "good.3}", "equation good.3 has no line of code"),
    "another card's id": ("good.2}", "ddim.2}", "the ids of its equations are good.1, ddim.2"),
    "two ids in one equation": (" k z ", r" k z \tag{good.1} ", "one \\tag for each"),
    "no sentence on an equation": ("And nu is the noise's.", "", "an equation has no sentence"),
    "a dead file": ("diffjax/walk.py", "diffjax/run.py", "files names diffjax/run.py, which is no file"),
    "a file of the tests": ("diffjax/walk.py", "tests/test_walk.py", "files names tests/test_walk.py"),
    "no file": ("[diffjax/walk.py]", "[]", "files names no file"),
    "two sentences": ("It is for few steps. ", "", "in 2 sentences"),
    "four sentences": ("It is for few steps. ", "It is. It is. ", "in 4 sentences"),
    "two paragraphs": ("It is for few steps. ", "It is for few steps.\n\n", "one paragraph"),
    "another family": ("family: Samplers", "family: Sampler", "is no heading of docs/methods.md; there are Samplers"),
    "a missing key": ("family: Samplers\n", "", "it takes title, family, files, articles"),
    "no list": ("[9181]\n---", "9181\n---", "it takes a list"),
    "an article by its name": ("[9181]\n---", "[P4]\n---", "takes numbers of kexue.fm/archives"),
    "no front matter": ("---\ntitle", "title", "needs front matter"),
    "another title": ("# DDIM", "# DDPM", "the heading is 'DDPM'"),
    "headings in another order": ("## Measured", "## Measures", "the headings are"),
    "a flag that is none": ("--nfe=10", "--steps=10", "unknown argument '--steps=10'"),
    "a mode that is none": ("--mode=sample", "--mode=draw", "invalid choice: 'draw'"),
    "a sampler that is none": ("ancestral.ddim", "ancestral.dddim", "dddim"),
    "a field that is none": ("--nfe=10", "--config.grids.n=10", "grids"),
    "no run": ("--workdir=runs/...", "", "neither --config nor --workdir"),
    "a config that is none": ("--mode=sample --workdir=runs/...", "--config=configs/vp.py", "configs/vp.py"),
    "another program": ("python -m diffjax.main", "rm", "it takes `python -m diffjax.main"),
    "a script that is none": ("python -m diffjax.main", "python experiments/study/a.py", "a.py is not there"),
    "a quote that does not end": ("--nfe=10", "--nfe='10", "no shell reads it"),
    "nothing measured": (
        CARD[CARD.index("The distance") : CARD.index("## Pit")],
        "It is good.\n\n",
        "neither a number",
    ),
    "a number of nowhere": ("6.51", "6.15", "Measured says 6.15"),
    "a commit of nowhere": ("4c9ce30", "4c9ce31", "Measured names commit 4c9ce31"),
    "a test that is none": ("test_walk.py", "test_run.py", "Measured names tests/test_run.py"),
    "one pitfall": ("- It stops at zero.\n", "", "it has 1 pitfalls"),
    "a link without its article": ("articles: [9181]", "articles: []", "front matter does not name article 9181"),
    "an article without its link": ("archives/9181", "archives/9182", "references do not link article 9181"),
    "an article of no series": ("[9181]\n", "[9181, 1]\n", "article 1 is not in docs/series.toml"),
    "no reference": (CARD[CARD.index("- Song") :], "", "it has no reference"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_wrong_is_found(tree, case):
    """One line each, which begins with the card's name; what else is found follows from it."""
    good, bad, said = BAD[case]
    assert good in CARD
    lines = found(tree, CARD.replace(good, bad))
    assert [line for line in lines if said in line], lines
    assert all(line.startswith("good.md: ") and "\n" not in line for line in lines)
    assert len(lines) <= 3


TWINS = {
    "another family": ("family: Samplers", "family: Training", "the twin's family"),
    "another equation": ("+ k z", "- k z", "the twin's equations differ"),
    "another command": ("--nfe=10", "--nfe=20", "the twin's commands differ"),
    "another number": ("6.51", "6.5", "the twin's Measured has other numbers: 6.5, 6.51"),
    "an English heading": ("## 实测", "## Measured", "the headings are"),
}


@pytest.mark.parametrize("case", TWINS)
def test_what_differs_in_the_twin_is_found(tree, case):
    good, bad, said = TWINS[case]
    assert good in chinese()
    lines = found(tree, CARD, zh=chinese().replace(good, bad))
    assert [line for line in lines if said in line and line.startswith("zh/good.md: ")], lines


def test_an_english_twin_is_found(tree):
    assert any("not written in Chinese" in line for line in found(tree, CARD, zh=CARD))


PYTHON = {
    "from diffjax import samplers, schedules\nsampler = samplers.multistep.adams(schedules.VP(), order=3)\n": "",
    "import diffjax\ndiffjax.schedules.VP(beta_min=0.1)\n": "",
    "from diffjax.theory import doob as d\nd.pinned\n": "",
    "from diffjax import sampler\n": "imports sampler of diffjax",
    "from diffjax import samplers\nsamplers.multistep.adam\n": "names `samplers.multistep.adam`",
    "import diffjax.schedules\ndiffjax.schedules.PV()\n": "names `diffjax.schedules.PV`",
    "from diffjax import schedules\nschedules.VP(beta=0.1)\n": "calls `schedules.VP`",
    "from diffjax import grids\ngrids.karras()\ngrids.karras(1, 2, 3, 4, 5, 6, 7, 8, 9)\n": "calls `grids.karras`",
    "for x in 3\n": "does not compile",
}


@pytest.mark.parametrize("text", PYTHON)
def test_python_is_looked_up_without_running_it(text):
    lines = list(listings.wrong([("python", text)]))
    assert bool(lines) == bool(PYTHON[text])
    assert all(PYTHON[text] in line for line in lines)


def test_what_is_missing_among_all_is_found(tree):
    """A file without a card, a line of code without an equation, a card without a twin."""
    found(tree, CARD.replace("[diffjax/walk.py]", "[diffjax/other.py]").replace("good.2", "good.3"))
    assert list(cards.incomplete(tree)) == [
        "no card has diffjax/walk.py, which docs/methods.md names",
        "diffjax/walk.py:2 has (good.2), which no card has",
        "docs/zh/cards/good.md is not there",
    ]


@pytest.mark.parametrize("path", cards.all_cards(), ids=lambda path: path.stem)
def test_card(path):
    assert cards.check(path) == []


def test_the_template_is_of_the_form(tmp_path):
    """Only what a writer has to fill in is wrong with it."""
    path = tmp_path / "NAME.md"
    path.write_text((ROOT / "docs/tools/card_template.txt").read_text())
    lines = cards.check(path)
    assert all("NAME" in line for line in lines)
    assert not [line for line in lines if "heading" in line or "sentences" in line or "pitfalls" in line]


def test_every_method_has_a_card():
    lines = list(cards.incomplete())
    assert not COMPLETE or not lines


def test_every_twin_has_a_card():
    assert {path.name for path in (ROOT / "docs/zh/cards").glob("*.md")} <= {path.name for path in cards.all_cards()}
