"""Searching the knowledge base."""

import pytest
from helpers.growth import assert_linear

from mlflow_agent_plugin.errors import KnowledgeError
from mlflow_agent_plugin.information import KnowledgeIndex
from mlflow_agent_plugin.information.knowledge import MAX_QUERY_CHARS
from mlflow_agent_plugin.package import RetrievalSpec

FILES = {
    "cards.md": "# Lost cards\n\nFreeze the card in the app.\n\n# New cards\n\nThey take five days.",
    "fees/cash.md": "# Fees for cash\n\nTaking out cash abroad costs two percent.",
    "notes.txt": "Freeze everything.",
}


@pytest.fixture
def folder(tmp_path):
    for name, text in FILES.items():
        path = tmp_path / "knowledge" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "knowledge"


def build(folder, **spec):
    return KnowledgeIndex.build(folder, RetrievalSpec(**spec))


def test_a_missing_folder_is_an_error(tmp_path):
    with pytest.raises(KnowledgeError, match=r"nowhere: .*missing"):
        build(tmp_path / "nowhere")


def test_a_folder_without_markdown_is_an_error(tmp_path):
    (tmp_path / "a.txt").write_text("text")
    with pytest.raises(KnowledgeError, match="has no text"):
        build(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "is empty"), (b" \n", "is empty"), (b"\xff\xfe", r"UTF-8"), (b"# T", "no text")],
)
def test_a_file_that_cannot_be_used_is_named(tmp_path, content, message):
    (tmp_path / "bad.md").write_bytes(content)
    with pytest.raises(KnowledgeError, match=message):
        build(tmp_path)


def test_a_bad_file_among_good_ones_is_an_error_too(folder):
    (folder / "bad.md").write_bytes(b"\xff\xfe")
    with pytest.raises(KnowledgeError, match=r"bad\.md"):
        build(folder)


def test_nothing_but_stop_words_is_an_error(tmp_path):
    (tmp_path / "a.md").write_text("the and of !!!")
    with pytest.raises(KnowledgeError, match="no words"):
        build(tmp_path)


def test_the_best_passage_comes_first_with_its_place(folder):
    passage, *_ = build(folder).search("How do I freeze my card?")
    assert passage.chunk_id == "cards.md#lost-cards/1"
    assert (passage.title, passage.source) == ("Lost cards", "cards.md")
    assert 0 < passage.score <= 1
    assert passage.to_dict()["text"] == "Freeze the card in the app."


def test_words_of_the_title_and_plurals_count(folder):
    assert build(folder).search("fee")[0].chunk_id == "fees/cash.md#fees-for-cash/1"


@pytest.mark.parametrize("query", ["", "the", "zebra", "?!", "\x00"])
def test_a_query_without_a_shared_word_finds_nothing(folder, query):
    assert build(folder, min_score=0).search(query) == []


def test_top_k_and_min_score_limit_what_is_found(folder):
    index = build(folder, top_k=1)
    assert len(index.search("card")) == 1
    assert len(index.search("card", top_k=5)) == 2
    assert index.search("card", top_k=0) == []
    assert index.search("card", min_score=1.0) == []


def test_equal_scores_are_ordered_by_id(tmp_path):
    for name in ("b", "a", "c"):
        (tmp_path / f"{name}.md").write_text("# Same\n\nexactly equal text")
    found = [p.source for p in build(tmp_path).search("equal", top_k=3)]
    assert found == ["a.md", "b.md", "c.md"]


def test_the_same_files_elsewhere_give_the_same_answer(folder, tmp_path):
    import shutil

    shutil.copytree(folder, tmp_path / "copy")
    first, second = build(folder), build(tmp_path / "copy")
    assert first.chunks == second.chunks
    assert first.search("cash cards") == second.search("cash cards")


def test_indexing_grows_with_the_files(tmp_path):
    def folder_of(files):
        where = tmp_path / str(files)
        where.mkdir(exist_ok=True)
        for number in range(files):
            body = "\n\n".join(
                f"## Part {part}\n\n" + f"word{number} text{part} " * 60 for part in range(6)
            )
            (where / f"{number}.md").write_text(f"# Doc {number}\n\n{body}")
        return where

    folders = {files: folder_of(files) for files in (12, 48)}
    assert_linear(lambda files: build(folders[files]), 12)
    index = build(folders[48])
    assert len(index) >= 288
    assert index.search("word7 text3")[0].source == "7.md"


def test_a_megabyte_of_query_is_cut(folder):
    index = build(folder)
    words = "card " * (MAX_QUERY_CHARS // 5)
    assert index.search(words + "freeze cash abroad " * 50_000) == index.search(words)
    assert index.search(words[5:] + "cash ") != index.search(words)
