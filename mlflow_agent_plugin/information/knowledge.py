"""The knowledge base: Markdown files, searched by the words they share with a question.

Rules:
- Every file below the folder that ends in ``.md`` is read, in path order; nothing else is.
- A folder that is missing or empty, and a file that is unreadable, empty or not UTF-8, is a
  `KnowledgeError` when the index is built: an agent never runs with half its knowledge.
- The score is the cosine similarity of TF-IDF vectors (words and pairs of words, English stop words
  left out, plain plurals and singulars alike), in [0, 1]. Titles count like text. Equal scores are
  ordered by id, so a search gives the same answer on any machine.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow_agent_plugin.errors import KnowledgeError
from mlflow_agent_plugin.information.chunks import Chunk, chunk_markdown
from mlflow_agent_plugin.package.reading import read_text

if TYPE_CHECKING:
    from mlflow_agent_plugin.package.manifest import RetrievalSpec

MAX_QUERY_CHARS = 10_000
"""Characters of a query that are looked at."""

_WORD = re.compile(r"[^\W_]+")


@dataclass(frozen=True)
class Passage:
    """A chunk that was found.

    Attributes:
        chunk_id: ``file#heading-slug/number``.
        title: Headings above it, joined by " > ".
        text: Markdown.
        score: Cosine similarity with the query, in [0, 1].
        source: The file's path in the knowledge base.
    """

    chunk_id: str
    title: str
    text: str
    score: float
    source: str

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        return dict(self.__dict__)


@dataclass(frozen=True, eq=False)
class KnowledgeIndex:
    """A searchable knowledge base; build it with `KnowledgeIndex.build`.

    Attributes:
        chunks: All chunks, in the order of their files.
        spec: How it is searched.
        screen: What may be shown of a passage's text; None: all of it.
    """

    chunks: tuple[Chunk, ...]
    spec: RetrievalSpec
    _vectorizer: Any
    _matrix: Any
    screen: Callable[[str], str] | None = None

    @classmethod
    def build(cls, folder: str | Path, spec: RetrievalSpec) -> KnowledgeIndex:
        """Read and index the Markdown files below `folder`.

        Raises:
            KnowledgeError: The folder is missing or holds nothing to search, or a file cannot be
                read.
        """
        from sklearn.feature_extraction.text import TfidfVectorizer

        root = Path(folder)
        chunks = tuple(_read_chunks(root, spec.chunk_chars))
        if not chunks:
            raise KnowledgeError(
                "the knowledge base has no text",
                where=str(root),
                hint="Add Markdown files (*.md).",
            )
        vectorizer = TfidfVectorizer(analyzer=_terms, sublinear_tf=True)
        try:
            matrix = vectorizer.fit_transform([f"{c.title}\n{c.text}" for c in chunks])
        except ValueError as error:  # nothing but marks and stop words
            raise KnowledgeError(
                "the knowledge base has no words to search for",
                where=str(root),
                hint="Add Markdown files (*.md) with text.",
            ) from error
        return cls(chunks, spec, vectorizer, matrix)

    def _shown(self, text: str) -> str:
        return text if self.screen is None else self.screen(text)

    def search(
        self, query: str, top_k: int | None = None, *, min_score: float | None = None
    ) -> list[Passage]:
        """Return the best passages, best first; none if nothing is similar enough.

        Args:
            query: A question or some words.
            top_k: How many at most; default: as the manifest says.
            min_score: Lowest score; default: as the manifest says.
        """
        limit = self.spec.top_k if top_k is None else top_k
        lowest = self.spec.min_score if min_score is None else min_score
        vector = self._vectorizer.transform([query[:MAX_QUERY_CHARS]])
        scores = (self._matrix @ vector.T).toarray().ravel().tolist()
        found = [
            (score, chunk)
            for score, chunk in zip(scores, self.chunks, strict=True)
            if score > 0 and score >= lowest
        ]
        found.sort(key=lambda pair: (-round(pair[0], 9), pair[1].chunk_id))
        return [
            Passage(c.chunk_id, c.title, self._shown(c.text), min(round(score, 6), 1.0), c.source)
            for score, c in found[: max(limit, 0)]
        ]

    def __len__(self) -> int:
        return len(self.chunks)


def _read_chunks(root: Path, chunk_chars: int) -> Iterator[Chunk]:
    if not root.is_dir():
        raise KnowledgeError(
            "the knowledge base is missing",
            where=str(root),
            hint="Create the folder with Markdown files, or remove retrieval from agent.yaml.",
        )
    for path in _markdown_files(root):
        source = path.relative_to(root).as_posix()
        text = read_text(path, error=KnowledgeError)
        if not text.strip():
            raise KnowledgeError("is empty", where=str(path), hint="Fill it in or remove it.")
        yield from chunk_markdown(source, text, chunk_chars=chunk_chars)


def _markdown_files(root: Path) -> list[Path]:
    found = [
        Path(folder) / name
        for folder, _, names in os.walk(root)
        for name in names
        if name.lower().endswith(".md")
    ]
    return sorted(found, key=lambda path: path.relative_to(root).as_posix())


def _terms(text: str) -> list[str]:
    """Return words without stop words, and pairs of neighbouring ones."""
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    words = [
        _singular(word) for word in _WORD.findall(text.casefold()) if word not in ENGLISH_STOP_WORDS
    ]
    return words + [f"{first} {second}" for first, second in pairwise(words)]


def _singular(word: str) -> str:
    if len(word) > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        return word[:-1]
    return word
