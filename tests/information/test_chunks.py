"""Cutting Markdown into chunks."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_agent_plugin.information.chunks import chunk_markdown, slugify

GUIDE = """\
---
title: not text
---
Before any heading.

# Cards

About cards.

## Lost

Freeze it. Then tell us.

## Lost

Twice.

# Fees #
```
# not a heading
```
"""


def chunks(text, *, source="guide.md", chunk_chars=800):
    return chunk_markdown(source, text, chunk_chars=chunk_chars)


def test_each_heading_with_text_is_a_chunk_titled_by_its_path():
    assert [(c.chunk_id, c.title, c.text) for c in chunks(GUIDE)] == [
        ("guide.md#guide/1", "guide", "Before any heading."),
        ("guide.md#cards/1", "Cards", "About cards."),
        ("guide.md#lost/1", "Cards > Lost", "Freeze it. Then tell us."),
        ("guide.md#lost-2/1", "Cards > Lost", "Twice."),
        ("guide.md#fees/1", "Fees", "```\n# not a heading\n```"),
    ]


@pytest.mark.parametrize("text", ["", "\n\n", "# Only a heading\n", "---\na: b\n---\n"])
def test_a_file_without_text_has_no_chunks(text):
    assert chunks(text) == []


def test_paragraphs_stay_together_while_they_fit():
    text = "# T\n\n" + "\n\n".join(letter * 40 for letter in "abc")
    assert [c.text for c in chunks(text, chunk_chars=100)] == [
        "a" * 40 + "\n\n" + "b" * 40,
        "c" * 40,
    ]


def test_a_long_paragraph_is_cut_between_sentences_then_words_then_anywhere():
    assert [c.text for c in chunks("One two. Three four.", chunk_chars=12)] == [
        "One two.",
        "Three four.",
    ]
    assert [c.text for c in chunks("one two three", chunk_chars=8)] == ["one two", "three"]
    assert [c.text for c in chunks("abcdefghij", chunk_chars=4)] == ["abcd", "efgh", "ij"]


def test_a_heading_that_looks_like_a_numbered_one_keeps_its_own_id():
    ids = [c.chunk_id for c in chunks("# A\nx\n# A 2\ny\n# A\nz\n# A\nw\n")]
    assert len(set(ids)) == 4


def test_slugs_are_letters_digits_and_hyphens():
    assert slugify("What's “new” in 2026?") == "what-s-new-in-2026"
    assert slugify("!!!") == "section"


@given(
    st.text(alphabet=st.sampled_from("ab #.\n`~-é\t"), max_size=300),
    st.integers(min_value=1, max_value=50),
)
def test_no_word_is_lost_no_chunk_is_too_long_and_ids_are_unique(text, longest):
    found = chunks(text, chunk_chars=longest)
    assert all(0 < len(c.text) <= longest for c in found)
    assert len({c.chunk_id for c in found}) == len(found)
    assert found == chunks(text, chunk_chars=longest)
    if longest == 50 and "#" not in text and "-" not in text:
        assert "".join("".join(c.text.split()) for c in found) == "".join(text.split())
