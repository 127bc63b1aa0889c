"""The page of the series, made from a small tree: which card a row has, what is shown of it, how words are escaped."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "docs" / "tools"))
import series

CARD = """---
title: Walk
family: Samplers
files: [diffjax/walk.py]
articles: [{article}]
---
# Walk

One. Two. Three.

## Equations

$$ x \\tag{{{name}.1}} $$

## Command

```{language}
{command}
```

## Measured

{measured}

## Pitfalls

## References
"""
TOML = '[9181]\nzh = "甲"\nen = "A"\nfamily = "Samplers"\nhere = true\n[9181.says]\n7 = "一族"\n\n'
LATER = '[9182]\nzh = "乙"\nen = "B"\nfamily = "Samplers"\nhere = false\n'


@pytest.fixture
def tree(tmp_path):
    """A repository of one file with one tag, two articles and no card."""
    for name in ("diffjax", "docs/cards", "docs/zh/cards"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "diffjax/walk.py").write_text('"""Walks (kexue 9181 (7)): |x| < a_b."""\n\n# (near.1)\n\n\n# (far.1)\n')
    (tmp_path / "docs/series.toml").write_text(TOML + LATER)
    return tmp_path


def put(tree, name, folder="docs/cards", **words):
    """Writes a card into the tree."""
    words = dict(article=9181, language="bash", command=f"python -m {name}", measured=f"{name} 1.5.", name=name) | words
    (tree / folder / f"{name}.md").write_text(CARD.format(**words))


def test_without_a_card_a_row_has_nothing(tree):
    """A card of the article alone does not have the row's code: no command, which a test of all rows refuses."""
    put(tree, "alone")
    path = tree / "docs/cards/alone.md"
    path.write_text(path.read_text().replace("diffjax/walk.py", "diffjax/run.py"))
    (row,) = series.rows(tree)
    assert row[1:] == ("", "", None)
    assert "| `diffjax/walk.py` |  |  |" in series.page("en", tree)


def test_the_card_and_command_that_the_table_names(tree):
    """They go before those that fit better; a card that does not have the tag's file is not taken."""
    put(tree, "near")
    put(tree, "other", article=1, command="python -m a\npython -m b  # second")
    table = tree / "docs/series.toml"
    table.write_text(table.read_text().replace('"一族"', '{zh = "一族", card = "other", command = 2}'))
    assert [(row.command, row.card) for row in series.rows(tree)] == [("python -m b", "other")]
    assert series.articles(tree)[9181].says == {"7": "一族"}
    path = tree / "docs/cards/other.md"
    path.write_text(path.read_text().replace("diffjax/walk.py", "diffjax/run.py"))
    assert [(row.command, row.card) for row in series.rows(tree)] == [("python -m near", "near")]


def test_the_card_that_fits_best_is_shown(tree):
    """Its article first, then the line of code that is nearer to the tag; the twin's words on the page in Chinese."""
    put(tree, "far")
    put(tree, "near")
    put(tree, "other", article=1)
    put(tree, "near", "docs/zh/cards", measured="近处 1.5。其余。")
    assert [(row.command, row.measured, row.card) for row in series.rows(tree)] == [
        ("python -m near", "near 1.5.", "near")
    ]
    assert series.rows(tree, "zh")[0].measured == "近处 1.5。"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("It is 2.5 here. More.", "It is 2.5 here."),
        ("Nothing here. `test_a.py` holds it. More.", "Nothing here. `test_a.py` holds it."),
        ("Of two:\n\n| a | b |\n|---|---|\n| x | 1.5 |\n| y | 2.5 |", "Of two: x, 1.5; y, 2.5"),
        ("| a | b |\n|---|---|\n| x | 1.5 |", "x, 1.5"),
        ("- First 1.5.\n- Second 2.", "First 1.5."),
    ],
)
def test_measured_is_shown_up_to_its_first_figure(tree, text, shown):
    put(tree, "near", measured=text)
    assert series.rows(tree)[0].measured == shown


def test_a_page_by_hand(tree):
    """Headings, one row, what is not yet; letters that Markdown would read are escaped."""
    put(tree, "near")
    assert series.page("en", tree).partition("## [9181]")[2] == (
        "(https://kexue.fm/archives/9181) A (甲)\n\n"
        "| equation | what it says | file (symbol) | command | measured |\n|---|---|---|---|---|\n"
        "| (7) | Walks: \\|x\\| &lt; a\\_b. | `diffjax/walk.py` | "
        "`python -m near` | near 1.5. [card](cards/near.md) |\n\n## Not yet\n\n"
        "Articles without a line of code, and the family that they would belong to.\n\n"
        "| article | title | family |\n|---|---|---|\n| [9182](https://kexue.fm/archives/9182) | B (乙) | Samplers |\n"
    )
    chinese = series.page("zh", tree, lines=True)
    assert "| 一族 | [`diffjax/walk.py:1`](../../diffjax/walk.py#L1) |" in chinese
    assert "| [9182](https://kexue.fm/archives/9182) | 乙 | 采样器 |" in chinese


def test_a_python_block_is_a_link_and_printed_whole(tree):
    put(tree, "near", language="python", command="import a\n\na.b()")
    assert series.rows(tree)[0].command == ""
    assert "\n  import a\n\n  a.b()\n" in series.told(series.articles(tree)[9181], tree)
    assert "| [python](cards/near.md#command) |" in series.page("en", tree)
    assert "| [python](cards/near.md#命令) |" in series.page("zh", tree)


def test_a_card_of_the_article_goes_before_one_with_a_nearer_line(tree):
    put(tree, "near", article=1)
    put(tree, "far")
    assert [row.card for row in series.rows(tree)] == ["far"]


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("|x| < y_1", "\\|x\\| &lt; y\\_1"),
        ("`a|b_c` or a_b", "`a\\|b_c` or a\\_b"),
        ("$p(x|y_1)$", "$p(x\\|y_1)$"),
        ("[a](b) * c", "\\[a\\](b) \\* c"),
    ],
)
def test_words_stay_in_their_cell(text, cell):
    assert series._escaped(text) == cell
