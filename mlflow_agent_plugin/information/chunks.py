"""Cuts Markdown into chunks a search can return; pure.

Rules:
- A chunk lies under one heading, keeps whole paragraphs while they fit, and is at most
  `chunk_chars` long; a longer paragraph is cut between sentences, then between words.
- A chunk's title is the path of headings above it. Text before the first heading is titled by the
  file's name.
- Ids are ``file#heading-slug/number``: they depend on the content alone, so the same knowledge base
  gives the same ids on any machine. A slug that occurs twice in a file gets ``-2``, ``-3`` ….
- Headings inside fenced code are no headings; a YAML front matter is left out.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

_HEADING = re.compile(r"^ {0,3}(#{1,6})(?:[ \t]+(.*?))?(?:[ \t]+#+)?[ \t]*$")
_FENCE = re.compile(r"^ {0,3}(`{3,}|~{3,})")
_FRONT_MATTER = re.compile(r"\A---[ \t]*\n.*?^---[ \t]*\n", re.DOTALL | re.MULTILINE)
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")


@dataclass(frozen=True)
class Chunk:
    """A piece of a file.

    Attributes:
        chunk_id: ``file#heading-slug/number``, the number from 1.
        title: Headings above it, joined by " > ".
        text: Markdown.
        source: The file's path in the knowledge base.
    """

    chunk_id: str
    title: str
    text: str
    source: str


@dataclass(frozen=True)
class _Section:
    title: str
    slug: str
    body: str


def chunk_markdown(source: str, text: str, *, chunk_chars: int) -> list[Chunk]:
    """Return the chunks of one file.

    Args:
        source: The file's path in the knowledge base, with forward slashes.
        text: Its content.
        chunk_chars: Longest chunk, characters.
    """
    chunks = []
    for section in _sections(source, text):
        pieces = _pieces(section.body, chunk_chars)
        chunks += [
            Chunk(f"{source}#{section.slug}/{number}", section.title, piece, source)
            for number, piece in enumerate(pieces, start=1)
        ]
    return chunks


def slugify(heading: str) -> str:
    """Return `heading` as part of an id: lower case letters, digits and hyphens."""
    words = re.findall(r"\w+", unicodedata.normalize("NFKC", heading).casefold())
    return "-".join(words) or "section"


def _sections(source: str, text: str) -> Iterator[_Section]:
    name = PurePosixPath(source).stem
    path: list[tuple[int, str]] = []
    body: list[str] = []
    slug = slugify(name)
    used: dict[str, int] = {}
    fence = ""
    for line in _FRONT_MATTER.sub("", text.replace("\r\n", "\n")).split("\n"):
        fenced = _FENCE.match(line)
        if fenced and not fence:
            fence = fenced[1]
        elif fenced and fenced[1].startswith(fence):
            fence = ""
        heading = None if fence or fenced else _HEADING.match(line)
        if heading is None:
            body.append(line)
            continue
        yield from _section(name, path, slug, body, used)
        level, title = len(heading[1]), (heading[2] or "").strip()
        path = [(above, words) for above, words in path if above < level]
        path.append((level, title))
        slug, body = slugify(title), []
    yield from _section(name, path, slug, body, used)


def _section(
    name: str, path: list[tuple[int, str]], slug: str, body: list[str], used: dict[str, int]
) -> Iterator[_Section]:
    text = "\n".join(body).strip()
    if not text:
        return
    used[slug] = used.get(slug, 0) + 1
    unique = slug if used[slug] == 1 else f"{slug}-{used[slug]}"
    while unique != slug and unique in used:  # a heading that is itself called "… 2"
        used[slug] += 1
        unique = f"{slug}-{used[slug]}"
    used.setdefault(unique, 1)
    title = " > ".join(words for _, words in path if words) or name
    yield _Section(title, unique, text)


def _pieces(text: str, longest: int) -> list[str]:
    """Return `text` in pieces of at most `longest` characters, cut as gently as possible."""
    parts = [part.strip("\n") for part in re.split(r"\n\s*\n", text) if part.strip()]
    return _join(parts, longest, "\n\n", _split_paragraph)


def _split_paragraph(text: str, longest: int) -> list[str]:
    return _join(_SENTENCE_END.split(text), longest, " ", _split_sentence)


def _split_sentence(text: str, longest: int) -> list[str]:
    return _join(text.split(), longest, " ", _split_word)


def _split_word(text: str, longest: int) -> list[str]:
    return [text[start : start + longest] for start in range(0, len(text), longest)]


def _join(
    parts: list[str], longest: int, glue: str, split: Callable[[str, int], list[str]]
) -> list[str]:
    """Glue neighbouring parts while they fit; a part that does not fit alone is split."""
    pieces: list[str] = []
    current = ""
    for part in parts:
        joined = f"{current}{glue}{part}" if current else part
        if len(joined) <= longest:
            current = joined
            continue
        if current:
            pieces.append(current)
        *full, current = [part] if len(part) <= longest else split(part, longest)
        pieces += full
    return [*pieces, current] if current else pieces
