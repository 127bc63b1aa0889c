"""A report as one HTML file: pictures inlined, no script, nothing from elsewhere.

It reads the Markdown that reports here are written in: headings, paragraphs, lists, tables, code, bold, italics and
pictures. All else is text: whatever a class, a file or a command is called is shown and never markup. Links are text.
"""

import base64
import html
import re
from pathlib import Path

from diffjax import disk

LARGEST = 2**24  # bytes of one picture
PNG = b"\x89PNG\r\n\x1a\n"
HEAD = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; color: #333; max-width: 900px; margin: 2em auto; padding: 0 1em }}
h1, h2, h3 {{ line-height: 1.2; margin-top: 1.6em }} em {{ color: #777 }}
table {{ border-collapse: collapse; font-size: 14px }}
th, td {{ border-bottom: 1px solid #ddd; padding: 3px 12px 3px 0; text-align: left; vertical-align: top }}
code, pre {{ font: 13px ui-monospace, monospace; background: #f5f5f5; overflow-wrap: anywhere }}
img {{ max-width: 100%; image-rendering: pixelated }}
</style></head><body>
"""
PICTURE = re.compile(r"!\[([^\[\]\n]*)\]\(([^()\s]+)\)")
RULE = re.compile(r"\|(?:\s*:?-+:?\s*\|)+")


def write(path: Path, markdown: str) -> None:
    """Writes a report twice: as Markdown to `path`, and as HTML beside it, with the pictures of its folder."""
    disk.write(path, markdown)
    disk.write(path.with_suffix(".html"), page(markdown, path.parent))


def page(markdown: str, folder: str | Path) -> str:
    """Makes the HTML page of a report.

    Args:
        folder: what pictures are relative to; those outside it, or that are no PNG files, are left out with a word.
    """
    lines = markdown.splitlines()
    title = next((line[2:] for line in lines if line.startswith("# ")), "report")
    return HEAD.format(title=_escaped(title)) + "\n".join(_blocks(lines, Path(folder))) + "\n</body></html>\n"


def _blocks(lines: list[str], folder: Path) -> list[str]:
    found, i = [], 0
    while i < len(lines):
        line, start = lines[i], i
        if line.startswith("```"):
            i = next((k for k in range(i + 1, len(lines)) if lines[k].startswith("```")), len(lines))
            found.append(f"<pre>{_escaped(chr(10).join(lines[start + 1 : i]))}</pre>")
            i += 1
        elif match := re.match(r"(#{1,4}) +(.*)", line):
            level = len(match[1])
            found.append(f"<h{level}>{_inline(match[2], folder)}</h{level}>")
            i += 1
        elif line.startswith("|"):
            i = _run(lines, i, "|")
            found.append(_table(lines[start:i], folder))
        elif line.startswith("- "):
            i = _run(lines, i, "- ")
            found.append("<ul>" + "".join(f"<li>{_inline(item[2:], folder)}</li>" for item in lines[start:i]) + "</ul>")
        elif line.strip():
            while i < len(lines) and lines[i].strip() and (i == start or not lines[i].startswith(("#", "|", "```"))):
                i += 1
            found.append(f"<p>{_inline(' '.join(lines[start:i]), folder)}</p>")
        else:
            i += 1
    return found


def _run(lines: list[str], i: int, begins: str) -> int:
    """The end of the lines from i on that begin like this."""
    while i < len(lines) and lines[i].startswith(begins):
        i += 1
    return i


def _table(lines: list[str], folder: Path) -> str:
    headed = len(lines) > 1 and RULE.fullmatch(lines[1].strip()) is not None
    rows = []
    for n, line in enumerate(lines):
        if headed and n == 1:
            continue
        kind = "th" if headed and n == 0 else "td"
        cells = [cell.replace("\\|", "|").strip() for cell in re.split(r"(?<!\\)\|", line.strip())[1:]]
        cells = cells[:-1] if cells and not cells[-1] else cells
        rows.append("<tr>" + "".join(f"<{kind}>{_inline(cell, folder)}</{kind}>" for cell in cells) + "</tr>")
    return f"<table>{''.join(rows)}</table>"


def _inline(text: str, folder: Path) -> str:
    """Marks up one line: code as it stands, then pictures, then bold and italics; all text is escaped first."""
    parts = re.split(r"(`[^`]+`)", text)
    return "".join(f"<code>{_escaped(p[1:-1])}</code>" if i % 2 else _spans(p, folder) for i, p in enumerate(parts))


def _spans(text: str, folder: Path) -> str:
    found, at = [], 0
    for match in PICTURE.finditer(text):
        found += [_weights(text[at : match.start()]), _picture(match[1], match[2], folder)]
        at = match.end()
    return "".join([*found, _weights(text[at:])])


def _weights(text: str) -> str:
    text = re.sub(r"\*\*(?=\S)(.+?)(?<=\S)\*\*", r"<strong>\1</strong>", _escaped(text))
    return re.sub(r"(?<!\*)\*(?=[^\s*])([^*]+?)(?<=\S)\*(?!\*)", r"<em>\1</em>", text)


def _picture(name: str, source: str, folder: Path) -> str:
    path = folder / source
    try:
        inside = path.resolve().is_relative_to(folder.resolve())
        content = path.read_bytes() if inside and path.is_file() and path.stat().st_size <= LARGEST else b""
    except (OSError, ValueError):
        content = b""
    if not content.startswith(PNG):
        return f"<em>(no picture {_escaped(source)})</em>"
    return f'<img alt="{_escaped(name)}" src="data:image/png;base64,{base64.b64encode(content).decode()}">'


def _escaped(text: str) -> str:
    return html.escape(text, quote=True)
