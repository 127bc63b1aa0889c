"""Turns LaTeX between dollars into MathML, which browsers draw themselves: no script, nothing from elsewhere.

`\\tag{ddim.1}` becomes the number beside its equation and the anchor `#eq-ddim.1`. What the converter does not know
stops the build.
"""

import html
import re

from latex2mathml.converter import convert

FOUND = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)
TAG = re.compile(r"\\tag\{([^{}]*)\}")
ACCENTS = {
    "005E": "\u02c6",
    "007E": "\u02dc",
    "00AF": "\u00af",
    "02D9": "\u02d9",
    "00A8": "\u00a8",
    "02C6": "\u02c6",
    "02DC": "\u02dc",
}
NAMED = re.compile(r"<mi>(log|exp|ln|sin|cos|tan|arctan|sinh|cosh|tanh|det|Pr)</mi>(<mo[^>]*>(?:&#x00028;|\()</mo>|)")
SIGNED = re.compile(r"(<mo[^>]*>(?:&#x0003D;|&#x00028;|&#x0002C;|=|\(|,)</mo>(?:<mspace[^>]*/>)?)<mo>(?=&#x02212;)")
KNOWN_AS = (  # what the converter knows under another name
    (r"\{(?:aligned|gathered)\}", "{align*}"),
    (r"\\arg(?![A-Za-z])", r"\\operatorname{arg}"),
)


def mathml(latex: str, display: str = "inline") -> str:
    """Converts LaTeX to a <math> element with its source as the text for those who do not see it.

    Raises:
        ValueError: for a command that the converter leaves as it stands, or for what it cannot read.
    """
    source = latex
    for name, known in KNOWN_AS:
        source = re.sub(name, known, source)
    try:
        made = mended(convert(source, display=display))
    except Exception as error:
        raise ValueError(f"mathematics {latex!r} is not read: {error!r}") from error
    left = re.findall(r">\s*(\\[A-Za-z]+)", made)
    if left:
        raise ValueError(f"mathematics {latex!r} has {left[0]}, which latex2mathml does not know")
    return made.replace("<math ", f'<math alttext="{html.escape(" ".join(latex.split()))}" data-search-exclude ', 1)


def mended(made: str) -> str:
    """Mends what browsers draw badly of the converter's output: accents, names of functions, upright letters."""
    accent = re.compile(r'<mover(?: accent="true")?>(.*?)<mo(?: [^>]*)?>&#x0([0-9A-F]{4});</mo></mover>')
    one = lambda m: f'<mover>{m[1]}<mo class="accent" stretchy="false">{ACCENTS[m[2]]}</mo></mover>'
    made = accent.sub(lambda m: one(m) if m[2] in ACCENTS else m[0], made)
    made = made.replace("<mi>&#x0007E;</mi>", "<mo>\u223c</mo>")
    made = NAMED.sub(lambda m: f'<mo lspace="0.167em" rspace="{"0" if m[2] else "0.167em"}">{m[1]}</mo>{m[2]}', made)
    made = SIGNED.sub(r'\1<mo form="prefix">', made)
    return re.sub(r"<mi>(&#x000(?:[4-7][0-9A-F]);)</mi>", r'<mi mathvariant="normal">\1</mi>', made)  # \mathrm{d}


def equation(latex: str) -> str:
    """Makes a displayed equation; its tag stands beside it."""
    tags = TAG.findall(latex)
    if len(tags) > 1:
        raise ValueError(f"an equation has the tags {', '.join(tags)}; give each its own $$ ... $$")
    body = mathml(TAG.sub("", latex).strip(), "block")
    if not tags:
        return f'<div class="equation">{body}</div>'
    name = html.escape(tags[0])
    number = f'<a class="number" href="#eq-{name}">({name})</a>'
    return f'<div class="equation" id="eq-{name}">{body}{number}</div>'


def converted(page: str) -> str:
    """Replaces what pymdownx.arithmatex has marked in a page's HTML."""

    def one(match: re.Match[str]) -> str:
        latex = html.unescape(match[2])
        return equation(latex) if match[1] == "div" else mathml(latex.strip())

    return FOUND.sub(one, page)
