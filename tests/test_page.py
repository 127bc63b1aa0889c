"""HTML twins of reports: what is marked up, and that nothing but our own markup is."""

import base64
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from diffjax import page

TAGS = {
    *[
        "html",
        "head",
        "meta",
        "title",
        "style",
        "body",
        "h1",
        "h2",
        "h3",
        "h4",
        "p",
        "ul",
        "li",
        "table",
        "tr",
        "th",
        "td",
        "code",
        "pre",
        "strong",
        "em",
        "img",
    ]
}
VOID = {"meta", "img"}


class Reader(HTMLParser):
    """Python's own parser: tags with their attributes, and the text in each."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.texts = [], [], []
        self.feed(text)
        self.close()
        assert not self.open, "every element is closed"

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append((tuple(self.open[2:]), data))  # without html, body

    def said(self, *path):
        return [text for at, text in self.texts if at == path]


def body(markdown, folder="."):
    """The tags of the body with their texts, of a page of this Markdown."""
    return Reader(page.page(markdown, folder))


@pytest.mark.parametrize(
    ("markdown", "path", "texts"),
    [
        ("# A run", ("h1",), ["A run"]),
        ("## B", ("h2",), ["B"]),
        ("one\ntwo\n\nthree", ("p",), ["one two", "three"]),
        ("- a\n- b", ("ul", "li"), ["a", "b"]),
        ("a **b c** d", ("p", "strong"), ["b c"]),
        ("*a caption.*", ("p", "em"), ["a caption."]),
        ("2 * 3 * 4 ** 5", ("p",), ["2 * 3 * 4 ** 5"]),
        ("a `b **c** <d>` e", ("p", "code"), ["b **c** <d>"]),
        ("```\n# no\n| heading |\n```", ("pre",), ["# no\n| heading |"]),
        ("```\nnever closed", ("pre",), ["never closed"]),
        ("| a | b |\n|---|:-:|\n| 1 | |\n| x \\| y | z |", ("table", "tr", "th"), ["a", "b"]),
        ("| a | b |\n|---|---|\n| 1 | 2 |\n| x \\| y | z |", ("table", "tr", "td"), ["1", "2", "x | y", "z"]),
        ("| no head |", ("table", "tr", "td"), ["no head"]),
        ("text\n| a |\n|---|\n| 1 |", ("table", "tr", "td"), ["1"]),
        ("[a](javascript:alert(1))", ("p",), ["[a](javascript:alert(1))"]),
    ],
)
def test_markdown_that_reports_use(markdown, path, texts):
    assert body(markdown).said(*path) == texts


def test_the_cells_of_a_table_stay_in_their_columns():
    text = page.page("| a | b |\n|---|---|\n| 1 | |\n", ".")
    assert "<tr><td>1</td><td></td></tr>" in text


HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</title></style></p><iframe src='https://example.org'>",
    '![a" onerror="alert(1)](figures/a.png)',
    "![x](https://example.org/a.png)",
    "![x](../secret.png)",
    "![x](figures/text.png)",
    "`<b>` **<i>x</i>** *<u>*",
    "&lt;script&gt; &#60;script&#62;",
    "\x00 \u202e ```",
    "| <td> | </table><script> |",
]


@pytest.mark.parametrize("hostile", HOSTILE)
@pytest.mark.parametrize(
    "where", ["# {}", "{}", "- {}", "| {} |\n|---|\n| {} |", "`{}`", "**{}**", "```\n{}\n```", "![{}](a)"]
)
def test_text_is_never_markup(where, hostile, tmp_path):
    """Only our tags, with none but our attributes; what names a file outside the folder, or no PNG, brings nothing."""
    (tmp_path / "run" / "figures").mkdir(parents=True)
    Image.fromarray(np.zeros((2, 2), np.uint8)).save(tmp_path / "secret.png")
    Image.fromarray(np.ones((2, 2), np.uint8)).save(tmp_path / "run" / "figures" / "a.png")
    (tmp_path / "run" / "figures" / "text.png").write_text("a secret that is no picture")
    text = page.page(where.replace("{}", hostile), tmp_path / "run")
    read = Reader(text)
    assert {tag for tag, _ in read.tags} <= TAGS
    for tag, attributes in read.tags:
        allowed = {"img": {"alt", "src"}, "meta": {"charset", "http-equiv", "content", "name"}, "html": {"lang"}}
        assert set(attributes) <= allowed.get(tag, set())
        assert attributes.get("src", "data:image/png;base64,").startswith("data:image/png;base64,")
    for content in ((tmp_path / "secret.png").read_bytes(), b"a secret"):
        assert base64.b64encode(content).decode() not in text


def test_entities_stay_as_they_were_written():
    assert body("a &lt;b&gt; <c>").said("p") == ["a &lt;b&gt; <c>"]


def test_pictures_are_in_the_page(tmp_path):
    (tmp_path / "figures").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, size=(5, 4)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "figures" / "a.png")
    markdown = "# R\n\n![the samples](figures/a.png) ![gone](figures/b.png)\n"
    page.write(tmp_path / "report.md", markdown)
    assert (tmp_path / "report.md").read_text() == markdown
    text = (tmp_path / "report.html").read_text()
    (picture,) = [attributes for tag, attributes in Reader(text).tags if tag == "img"]
    assert picture["alt"] == "the samples"
    kind, _, content = picture["src"].partition(",")
    assert kind == "data:image/png;base64"
    assert base64.b64decode(content) == (tmp_path / "figures" / "a.png").read_bytes()
    assert "(no picture figures/b.png)" in text
    assert not re.search(r"https?:|<script|<link|@import|url\(", text), "nothing comes from elsewhere"


def test_a_picture_that_is_too_large_is_left_out(tmp_path, monkeypatch):
    Image.fromarray(np.zeros((2, 2), np.uint8)).save(tmp_path / "a.png")
    monkeypatch.setattr(page, "LARGEST", 10)
    assert "(no picture a.png)" in page.page("![a](a.png)", tmp_path)
