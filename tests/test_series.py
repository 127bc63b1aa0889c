"""The index of the series: every tag of a docstring is in it, all in it is a tag; its commands are ones that run."""

import ast
import re
import resource
import subprocess
import sys
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "docs" / "tools"))
import cards  # noqa: E402
import listings  # noqa: E402
import series  # noqa: E402

ARTICLES = series.articles()
TAGS = series.tags()
ROWS = series.rows()


def strings(path):
    """The strings and comments of a file of code, with the lines that they begin at."""
    with tokenize.open(path) as file:
        for token in tokenize.generate_tokens(file.readline):
            if token.type in (tokenize.STRING, tokenize.COMMENT):
                yield token.start[0], token.string


def test_every_mention_of_an_article_is_a_tag_of_a_docstring():
    """Whatever has the word and a number is read by `tags`, so that a slip such as 'kexue 9164(6)' is found."""
    said = re.compile(r"kexue[ :,.#]*\d+[^\s;,.]*")
    for path in sorted((ROOT / "diffjax").rglob("*.py")):
        name = str(path.relative_to(ROOT))
        if "kexue" not in path.read_text():
            continue
        for line, text in strings(path):
            for found in said.finditer(text):
                at = line + text[: found.start()].count("\n")
                number = int(re.search(r"\d+", found[0])[0])
                assert [tag for tag in TAGS if (tag.path, tag.line, tag.article) == (name, at, number)], (name, at)
                assert re.match(r"kexue \d{3,5}(?!\S*\()", found[0]), (name, at, found[0])


def test_every_tag_is_of_an_article_that_is_here():
    assert not [tag for tag in TAGS if tag.article not in ARTICLES or not ARTICLES[tag.article].here]


def test_every_article_that_is_here_has_a_tag():
    tagged = {tag.article for tag in TAGS}
    assert tagged == {number for number, article in ARTICLES.items() if article.here}
    assert len(tagged) >= 20


def test_every_equation_has_its_words_in_chinese():
    """docs/series.toml says in Chinese what each tag's equation says, and of nothing else."""
    for number, article in ARTICLES.items():
        equations = {str(tag.equation or "") for tag in TAGS if tag.article == number}
        assert set(article.says) == equations, number
        assert all(re.search(r"[一-鿿]", text) for text in article.says.values()), number


def test_families_are_those_of_the_methods_page():
    assert {article.family for article in ARTICLES.values()} <= set(cards.families())


@pytest.mark.parametrize("tag", TAGS, ids=lambda tag: f"{tag.article}-{tag.equation}-{Path(tag.path).stem}-{tag.line}")
def test_file_line_and_symbol_exist(tag):
    """The line has the number, the symbol's docstring holds the line, and the words say something without the tag."""
    text = (ROOT / tag.path).read_text()
    assert str(tag.article) in text.splitlines()[tag.line - 1]
    node = ast.parse(text)
    for name in [] if tag.symbol == "module" else tag.symbol.split("."):
        (node,) = [child for child in node.body if getattr(child, "name", None) == name]
    first = node.body[0]
    assert first.lineno <= tag.line <= first.end_lineno
    assert str(tag.article) in ast.get_docstring(node)
    assert len(tag.says.split()) >= 3
    assert not re.search(r"\(\)|\( |;\)|^[,;.)]", tag.says)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_pages_are_what_the_generator_makes(language):
    """After a change: python docs/tools/series.py --write."""
    page = (ROOT / series.PAGES[language]).read_text()
    assert page == series.page(language)
    assert not re.search(r"\.py:\d", page)
    assert re.search(r"diffjax/samplers/sde\.py:\d+", series.page(language, lines=True))


def test_the_pages_have_equal_rows():
    """Headings and rows of both languages come in one order; file and command are equal."""
    rows = lambda page: [line.split(" | ") for line in page.splitlines() if line.startswith("| [")]
    english, chinese = rows(series.page("en")), rows(series.page("zh"))
    assert [(row[0], row[1], *row[3:5]) for row in english if len(row) > 3] == [
        (row[0], row[1], *row[3:5]) for row in chinese if len(row) > 3
    ]
    assert len(english) == len(chinese) == len(TAGS) + sum(not article.here for article in ARTICLES.values())


def test_every_cell_is_one_cell():
    """A '|' in the words would make a column more."""
    for line in series.page("en").splitlines():
        if line.startswith("| ["):
            assert len(re.findall(r"(?<!\\)\|", line)) in (7, 4), line


@pytest.mark.parametrize("command", sorted({row.command for row in ROWS}))
def test_every_command_is_one_that_runs(command):
    """Read by its own parser, its config resolved; a name of the library is looked up."""
    if command.startswith("diffjax."):
        assert not list(listings.wrong_python(f"import diffjax\n{command}\n"))
    elif command.startswith("python "):
        assert not list(listings.wrong_shell(command))
    else:  # the last line of a card's Python block, which the card's own test reads
        assert any(command in text for card in map(cards.read, cards.all_cards()) for _, text in card.blocks)


def test_every_row_has_something_measured():
    assert not [row.tag for row in ROWS if not row.measured]


def test_names_of_tests_that_rows_have_are_there():
    named = {name for row in ROWS for name in re.findall(r"test_\w+\.py", row.measured)}
    assert named
    assert not [name for name in named if not (ROOT / "tests" / name).is_file()]


def run(*argv):
    """The tool as a process that cannot import jax: (exit status, stdout, stderr, seconds of CPU)."""
    code = (
        "import runpy, sys; sys.modules['jax'] = None; sys.path.insert(0, sys.argv[1]); sys.argv = sys.argv[2:];"
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    tool = ROOT / "docs/tools/series.py"
    seconds = lambda: sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])
    began = seconds()
    done = subprocess.run(
        [sys.executable, "-c", code, str(tool.parent), str(tool), *argv], capture_output=True, text=True
    )
    return done.returncode, done.stdout, done.stderr, seconds() - began


def test_9228_is_found_at_once():
    """A reader who knows the number alone gets the file, the equation and a command, without jax, in seconds."""
    status, out, err, seconds = run("9228")
    assert (status, err) == (0, "")
    assert seconds < 2
    block = next(block for block in out.split("\n\n") if "(13)" in block and "samplers/sde.py" in block)
    place, line, symbol = re.search(r"(diffjax/samplers/sde\.py):(\d+) \((\w+)\)", block).groups()
    assert "kexue 9228 (13)" in (ROOT / place).read_text().splitlines()[int(line) - 1]
    assert symbol == "module"
    assert re.search(r"^  python -m diffjax\.main .+", block, re.MULTILINE)


def test_an_article_that_is_not_yet_here_says_its_family():
    status, out, _, _ = run("https://kexue.fm/archives/9881")
    assert status == 0
    assert "not yet; its family: Samplers" in out


@pytest.mark.parametrize(
    ("argv", "near"), [(["9229"], "9228"), (["10"], "1045"), (["ddim"], "9119"), (["9228", "1"], "9228")]
)
def test_an_article_that_is_not_here_is_one_line_with_the_nearest(argv, near):
    status, out, err, _ = run(*argv)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"error: no article '{' '.join(argv)}' here; the nearest are ")
    assert near in err


def test_nearest_numbers():
    assert series.nearest(9229, [9119, 9209, 9228, 9245, 9246]) == [9228, 9245, 9246]  # 1, 16 and 17 away; 9209 is 20


DOC = '''"""Reads x (Song et al. 2021, eq. 6; kexue 9209 (8), 9228). It is y = 1.

    a     b = c        (kexue 9245 (10, 16))
    d     e
          (kexue 9246)

In the words of kexue 9119 this is "tear down". Last (kexue 9152 (4)):

    p = q
"""


class A:
    """Holds z (kexue 9164 (6))."""

    def f(self):
        """No tag: kexue's own."""
'''


def test_tags_of_a_docstring(tmp_path):
    """Article, equation, words, line and symbol, by hand."""
    (tmp_path / "diffjax").mkdir()
    (tmp_path / "diffjax/a.py").write_text(DOC)
    first, last = "Reads x (Song et al. 2021, eq. 6).", "Last: p = q"
    words = 'In the words of kexue 9119 this is "tear down".'
    assert [tag[:3] + tag[4:] for tag in series.tags(tmp_path)] == [
        (9119, None, words, 7, "module"),
        (9152, 4, last, 7, "module"),
        (9164, 6, "Holds z.", 14, "A"),
        (9209, 8, first, 1, "module"),
        (9228, None, first, 1, "module"),
        (9245, 10, "a: b = c", 3, "module"),
        (9245, 16, "a: b = c", 3, "module"),
        (9246, None, "d: e", 5, "module"),
    ]


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
ROW = "## All methods, by family\n\n### Samplers\n\n| method | file | config or call | test |\n|---|---|---|---|\n"
TOML = '[9181]\nzh = "甲"\nen = "A"\nfamily = "Samplers"\nhere = true\n[9181.says]\n7 = "一族"\n\n'
LATER = '[9182]\nzh = "乙"\nen = "B"\nfamily = "Samplers"\nhere = false\n'


@pytest.fixture
def tree(tmp_path):
    """A repository of one file with one tag, one row in the tables, two articles and no card."""
    for name in ("diffjax", "docs/cards", "docs/zh/cards"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "diffjax/walk.py").write_text('"""Walks (kexue 9181 (7)): |x| < a_b."""\n\n# (near.1)\n\n\n# (far.1)\n')
    (tmp_path / "docs/methods.md").write_text(
        f"{ROW}| walk | `walk.py` | `sampler.name=a.b`, `grid.n=3` | `test_a.py` |\n"
    )
    (tmp_path / "docs/series.toml").write_text(TOML + LATER)
    return tmp_path


def put(tree, name, folder="docs/cards", **words):
    """Writes a card into the tree."""
    words = dict(article=9181, language="bash", command=f"python -m {name}", measured=f"{name} 1.5.", name=name) | words
    (tree / folder / f"{name}.md").write_text(CARD.format(**words))


def test_without_a_card_a_row_is_that_of_the_tables(tree):
    (row,) = series.rows(tree)
    assert row.command == "python -m diffjax.main --config=configs/vpsde.py --config.sampler.name=a.b --config.grid.n=3"
    assert (row.measured, row.card) == ("held by `test_a.py`", None)
    assert series.rows(tree, "zh")[0].measured == "由 `test_a.py` 检验"


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
    assert series.page("en", tree).partition("## 9181")[2] == (
        " A (甲)\n\n"
        "| article | equation | what it says | file (symbol) | command | measured |\n|---|---|---|---|---|---|\n"
        "| [9181](https://kexue.fm/archives/9181) | (7) | Walks: \\|x\\| &lt; a\\_b. | `diffjax/walk.py` (`module`) | "
        "`python -m near` | near 1.5. [card](cards/near.md) |\n\n## Not yet\n\n"
        "Articles without a line of code, and the family that they would belong to.\n\n"
        "| article | title | family |\n|---|---|---|\n| [9182](https://kexue.fm/archives/9182) | B (乙) | Samplers |\n"
    )
    assert "| 一族 | `diffjax/walk.py:1` (`module`) |" in series.page("zh", tree, lines=True)


def test_a_python_block_is_printed_whole(tree):
    put(tree, "near", language="python", command="import a\n\na.b()")
    assert "\n  import a\n\n  a.b()\n" in series.told(series.articles(tree)[9181], tree)
    assert series.rows(tree)[0].command == "a.b()"


def test_a_card_of_the_article_goes_before_one_with_a_nearer_line(tree):
    put(tree, "near", article=1)
    put(tree, "far")
    assert [row.card for row in series.rows(tree)] == ["far"]


def test_a_card_with_a_line_near_goes_before_one_of_the_article_alone(tree):
    put(tree, "near", article=1)
    put(tree, "alone")
    path = tree / "docs/cards/alone.md"
    path.write_text(path.read_text().replace("diffjax/walk.py", "diffjax/run.py"))
    assert [row.card for row in series.rows(tree)] == ["near"]


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
