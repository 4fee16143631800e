"""A strict reader of a report: nesting, ids, labels, headings; and the text that a person sees."""

from __future__ import annotations

import itertools
from html.parser import HTMLParser

VOID = {"meta", "input", "br", "hr", "link", "img", "col", "wbr"}
DRAWN = {"rect", "line", "circle", "polyline", "path"}  # SVG, closed in themselves


class Reader(HTMLParser):
    """Collects what a test asks for; a fault of form is kept in `faults`."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.faults: list[str] = []
        self.text: list[str] = []
        self.scripts: list[str] = []
        self.cells: list[list[str]] = []  # of each table row

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        if len(names) != len(set(names)):
            self.faults.append(f"<{tag}> has an attribute twice: {names}")
        self.tags.append((tag, {k: v or "" for k, v in attrs}))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.cells.append([])
        if tag in ("td", "th") and self.cells:
            self.cells[-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in DRAWN:
            self.faults.append(f"<{tag}/> is closed in itself")
        self.tags.append((tag, {k: v or "" for k, v in attrs}))

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open[-1] != tag:
            self.faults.append(f"</{tag}> closes {self.open[-3:]} at {self.getpos()}")
        if tag in self.open:
            while self.open.pop() != tag:
                pass

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            self.scripts.append(data)
        elif not self.open or self.open[-1] != "style":
            self.text.append(data)
            if self.cells and any(t in ("td", "th") for t in self.open) and self.cells[-1]:
                self.cells[-1][-1] += data

    def handle_comment(self, data: str) -> None:
        self.faults.append(f"a comment: {data[:40]}")

    @property
    def words(self) -> str:
        return " ".join("".join(self.text).split())

    def row(self, first: str) -> list[str]:
        """The cells of the table row that starts with a text."""
        found = [[" ".join(c.split()) for c in row] for row in self.cells]
        rows = [r for r in found if r and r[0] == first] or [r for r in found if r and r[0].startswith(first)]
        assert len(rows) == 1, (first, rows)
        return rows[0]

    def having(self, tag: str, **wanted: str) -> list[dict[str, str]]:
        asked = {k.rstrip("_").replace("_", "-"): v for k, v in wanted.items()}
        return [a for t, a in self.tags if t == tag and all(a.get(k) == v for k, v in asked.items())]


def read_page(html: str) -> Reader:
    reader = Reader()
    reader.feed(html)
    reader.close()
    if reader.open:
        reader.faults.append(f"never closed: {reader.open}")
    return reader


def form_faults(html: str) -> list[str]:
    """Every fault of form: nesting, ids, references to ids, labels, headings that skip a level."""
    page = read_page(html)
    found = list(page.faults)
    ids = [a["id"] for _, a in page.tags if "id" in a]
    found += [f"id {i} twice" for i in set(ids) if ids.count(i) > 1]
    for tag, attrs in page.tags:
        found += [f"{attrs[k]} is no id" for k in ("aria-labelledby", "for") if k in attrs and attrs[k] not in ids]
        if attrs.get("href", "#").startswith("#") and attrs.get("href", "#")[1:] not in [*ids, ""]:
            found.append(f"link to nowhere: {attrs['href']}")
        if tag == "input" and not any(t == "label" and a.get("for") == attrs.get("id") for t, a in page.tags):
            found.append(f"input without a label: {attrs}")
        if tag == "svg" and not attrs.get("aria-label"):
            found.append("svg without a label")
        if tag == "button" and not attrs.get("type"):
            found.append("button without a type")
        found += [f"{tag} has {k}" for k in attrs if k.startswith("on") or k in ("style", "src", "srcset")]
    levels = [int(t[1]) for t, _ in page.tags if t in ("h1", "h2", "h3", "h4", "h5", "h6")]
    found += [f"h{a} is followed by h{b}" for a, b in itertools.pairwise(levels) if b > a + 1]
    if levels.count(1) != 1:
        found.append("not one h1")
    if not page.having("html", lang="en"):
        found.append("no language")
    return found
