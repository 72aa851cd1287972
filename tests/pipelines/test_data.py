"""Where data come from, and that nothing else is taken for them."""

import hashlib
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from mlflow_agent_plugin.errors import DataError
from mlflow_agent_plugin.foundation.planner.words import fold
from pipelines import data

TRAIN = b"text,category\nhello there,greet\nbye now,leave\n"
TEST = b"text,category\nhello,greet\n"


@pytest.fixture
def no_data(tmp_path, monkeypatch):
    """Leave no folder, no cache and no network."""
    monkeypatch.setenv("MLFLOW_AGENTS_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(data, "BANKING77_URL", "http://127.0.0.1:9/nothing")
    data._download.cache_clear()
    yield tmp_path
    data._download.cache_clear()


@pytest.fixture
def pinned(monkeypatch):
    """Pin the digests of our own tiny files instead of BANKING77's."""
    digests = {
        "train.csv": hashlib.sha256(TRAIN).hexdigest(),
        "test.csv": hashlib.sha256(TEST).hexdigest(),
    }
    monkeypatch.setattr(data, "BANKING77_SHA256", digests)


def test_a_named_folder_that_is_missing_is_an_error(monkeypatch, tmp_path):
    monkeypatch.setenv("MLFLOW_AGENTS_DATA_DIR", str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match=r"MLFLOW_AGENTS_DATA_DIR: .*not a folder"):
        data.find_data_dir()


def test_a_named_folder_wins(monkeypatch, tmp_path):
    monkeypatch.setenv("MLFLOW_AGENTS_DATA_DIR", str(tmp_path))
    assert data.find_data_dir() == tmp_path


def test_a_file_with_another_content_is_an_error_not_a_substitute(no_data):
    folder = no_data / "banking77"
    folder.mkdir()
    (folder / "train.csv").write_bytes(TRAIN)
    (folder / "test.csv").write_bytes(TEST)
    with pytest.raises(DataError, match=r"train\.csv: has SHA-256"):
        data.find_banking77()


def test_a_folder_that_lacks_a_file_is_an_error(no_data):
    (no_data / "banking77").mkdir()
    with pytest.raises(DataError, match=r"train\.csv: cannot be read"):
        data.find_banking77()


def test_without_data_and_network_the_small_set_is_used_and_said(no_data):
    source = data.find_banking77()
    assert source.name == "small_set"
    assert "small set written for this project" in source.statement
    assert "cannot be downloaded" in source.statement
    frame = data.load_banking77("train", source)
    assert list(frame.columns) == ["text", "category"]
    assert frame.attrs["source"] == source.statement


def test_downloads_can_be_forbidden(no_data, monkeypatch):
    monkeypatch.setenv("MLFLOW_AGENTS_DOWNLOAD", "false")
    assert "downloads are off" in data.find_banking77().statement
    monkeypatch.delenv("MLFLOW_AGENTS_DOWNLOAD")
    assert "downloads are off" in data.find_banking77(download=False).statement


@pytest.fixture
def server(tmp_path, monkeypatch, no_data):
    folder = tmp_path / "served"
    folder.mkdir()
    handler = partial(SimpleHTTPRequestHandler, directory=str(folder))
    handler.log_message = lambda *_: None
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=httpd.serve_forever)
    thread.start()
    monkeypatch.setattr(data, "BANKING77_URL", f"http://127.0.0.1:{httpd.server_address[1]}")
    yield folder
    httpd.shutdown()
    httpd.server_close()
    thread.join()


def test_a_download_is_checked_kept_and_used_again(server, pinned):
    (server / "train.csv").write_bytes(TRAIN)
    (server / "test.csv").write_bytes(TEST)
    assert data.find_banking77().how == "download"
    source = data.find_banking77()
    assert source.how == "cache"
    assert data.load_banking77("train", source)["category"].tolist() == ["greet", "leave"]


def test_a_download_with_another_content_is_not_kept(server, pinned, no_data):
    (server / "train.csv").write_bytes(TRAIN)
    (server / "test.csv").write_bytes(TEST + b"x,y\n")
    source = data.find_banking77()
    assert source.name == "small_set"
    assert "another test.csv than the pinned one" in source.statement
    assert not (no_data / "cache").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"text,category\n", "no rows"),
        (b"text,label\na,b\n", "no column category"),
        (b"text,category\na,\n", "row 1 has no category"),
        (b"text,category\na,b\n  ,b\n", "row 2 has no text"),
        (b"text,category\n\xff,b\n", "not UTF-8"),
        (b'text,category\n"a,b\n', "not a CSV"),
        (b"text,category\na,b,c,d\n", "row 1 has 4 fields"),
    ],
)
def test_a_malformed_table_is_one_error(tmp_path, content, message):
    (tmp_path / "bad.csv").write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        data.read_labelled(tmp_path / "bad.csv")
    assert "\n" not in str(caught.value)


def test_a_missing_table_is_an_error(tmp_path):
    with pytest.raises(DataError, match=r"nothing\.csv: cannot be read"):
        data.read_labelled(tmp_path / "nothing.csv")


def test_words_that_look_like_missing_values_stay_words(tmp_path):
    (tmp_path / "a.csv").write_text("text,category\nNA,null\n")
    assert data.read_labelled(tmp_path / "a.csv").to_numpy().tolist() == [["NA", "null"]]


# --- The small set --------------------------------------------------------------------------------


def test_the_small_set_covers_every_intent_in_both_splits():
    source = data.small_set()
    train, test = (data.load_banking77(split, source) for split in ("train", "test"))
    assert train["category"].nunique() == test["category"].nunique() == 77
    assert train["category"].value_counts().min() >= 9
    assert (test["category"].value_counts() == 3).all()


def test_no_text_of_the_small_set_stands_twice():
    source = data.small_set()
    texts = [t for split in ("train", "test") for t in data.load_banking77(split, source)["text"]]
    normalised = [" ".join(fold(text)) for text in texts]
    assert len(set(normalised)) == len(normalised)


def test_out_of_scope_queries_without_clinc_are_our_own(no_data):
    train, val = data.load_clinc_oos("train"), data.load_clinc_oos("val")
    assert set(train["category"]) == {"out_of_scope"}
    assert not set(train["text"]) & set(val["text"])
    assert "small set" in train.attrs["source"]


# --- The public data ------------------------------------------------------------------------------


@pytest.mark.data
def test_banking77_is_complete():
    source = data.find_banking77(download=False)
    if source.name != "banking77":
        pytest.skip(source.statement)
    assert len(data.load_banking77("train", source)) == 10_003
    assert len(data.load_banking77("test", source)) == 3_080
    assert "CC-BY-4.0" in source.statement


@pytest.mark.data
def test_no_row_of_the_small_set_is_one_of_the_public_data():
    source = data.find_banking77(download=False)
    if source.name != "banking77":
        pytest.skip(source.statement)
    public = [data.load_banking77(split, source) for split in ("train", "test")]
    public += [data.load_clinc_oos("train"), data.load_clinc_oos("val")]
    theirs = {" ".join(fold(text)) for frame in public for text in frame["text"]}
    files = [data.read_labelled(path) for path in data.SMALL_SET.glob("*.csv")]
    assert not [t for frame in files for t in frame["text"] if " ".join(fold(t)) in theirs]
