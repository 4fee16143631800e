"""HTML pages and PDF files to documents, one a file. Only here lxml and pypdf are imported (the extra `documents`)."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from tunesmith.data import lines as text
from tunesmith.data.lines import Rejected, Row, check_text
from tunesmith.errors import DataError

COLUMN = "text"  # of the one that such a file has
LEFT_OUT = {
    "script",
    "style",
    "noscript",
    "template",
    "nav",
    "footer",
    "aside",
    "form",
    "svg",
    "iframe",
    "head",
    "button",
}
PARAGRAPHS = {"p", "div", "section", "article", "main", "h1", "h2", "h3", "h4", "h5", "h6", "ul", "ol", "table", "pre",
              "blockquote", "header", "dl", "figure"}  # fmt: skip
LINES = {"br", "li", "tr", "dt", "dd", "figcaption"}
KEPT = "\ue000"  # stands for a space of preformatted text meanwhile
NO_TEXT = "holds no text"


def html_rows(stream: IO[bytes], path: Path, encoding: str | None) -> Iterator[tuple[int, Row] | Rejected]:
    """What a reader sees of the page, paragraphs apart: of its main part where it names one, without navigation."""
    try:
        html, etree = importlib.import_module("lxml.html"), importlib.import_module("lxml.etree")
    except ImportError:
        raise _missing(path, "HTML pages", "lxml") from None
    raw = stream.read(text.MAX_ROW_BYTES + 1)
    try:
        if encoding is None:
            encoding = "utf-8" if is_utf8(raw) else None  # None: what the page says itself
        root = html.document_fromstring(raw, parser=html.HTMLParser(encoding=encoding, huge_tree=False))
    except (etree.LxmlError, ValueError) as error:
        yield Rejected(str(path), 1, f"is not HTML that can be read ({error})")
        return
    yield _document(path, _text(_main(root)), len(raw), f"{NO_TEXT} outside of scripts and navigation")


def is_utf8(raw: bytes) -> bool:
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _main(root: Any) -> Any:
    for tag in ("main", "article"):
        found = list(root.iter(tag))
        if len(found) == 1:
            return found[0]
    return root


def _text(node: Any) -> str:
    pieces: list[str] = []

    def read(node: Any) -> None:
        tag = node.tag if isinstance(node.tag, str) else ""  # a comment's is none
        if tag and tag not in LEFT_OUT:
            edge = "\n\n" if tag in PARAGRAPHS else "\n" if tag in LINES else ""
            pieces.append(edge + ("- " if tag == "li" else " " if tag in ("td", "th") else ""))
            pieces.append(_flowing(node.text, tag))
            for child in node:
                read(child)
                pieces.append(_flowing(child.tail, tag))
            pieces.append(edge if tag in PARAGRAPHS else "")

    read(node)
    lines = [re.sub(" {2,}", " ", line).strip(" ").replace(KEPT, " ").rstrip() for line in "".join(pieces).split("\n")]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip("\n")


def _flowing(content: str | None, tag: str) -> str:
    return (content or "").replace(" ", KEPT) if tag == "pre" else re.sub(r"\s+", " ", content or "")


def pdf_rows(stream: IO[bytes], path: Path) -> Iterator[tuple[int, Row] | Rejected]:
    """The text of all pages. A file that is locked, damaged or holds pictures of pages alone is a rejected row."""
    try:
        pypdf = importlib.import_module("pypdf")
    except ImportError:
        raise _missing(path, "PDF files", "pypdf") from None
    try:
        reader = pypdf.PdfReader(stream)
        if reader.is_encrypted and not reader.decrypt(""):
            yield Rejected(str(path), 1, "is locked by a password: save it without")
            return
        pages = [page.extract_text() or "" for page in reader.pages]
    except (pypdf.errors.PyPdfError, ValueError, KeyError, TypeError, RecursionError, OSError) as error:
        yield Rejected(str(path), 1, f"is not a PDF file that can be read ({error or type(error).__name__})")
        return
    pages = [re.sub(r"[ \t]+\n", "\n", page).strip() for page in pages]
    content = "\n\n".join(page for page in pages if page)
    yield _document(path, content, len(content), f"{NO_TEXT}: are its pages pictures? Run text recognition (OCR) first")


def _document(path: Path, content: str, num_bytes: int, why_empty: str) -> tuple[int, Row] | Rejected:
    if num_bytes > text.MAX_ROW_BYTES:
        return Rejected(str(path), 1, f"is longer than {text.MAX_ROW_BYTES // 2**20} MiB")
    if not content:
        return Rejected(str(path), 1, why_empty)
    try:
        check_text(content)
    except ValueError as error:
        return Rejected(str(path), 1, str(error))
    return 1, {COLUMN: content}


def _missing(path: Path, what: str, name: str) -> DataError:
    return DataError(
        f"{path}: {what} need {name}, which is not installed: pip install 'tunesmith[documents]'. Or save the text as "
        ".txt"
    )
