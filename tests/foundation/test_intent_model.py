"""The intent model: training, confidence, files."""

import dataclasses
import io
import json
import pickle
import subprocess
import sys

import numpy as np
import pytest

from mlflow_agent_plugin.errors import PlannerError
from mlflow_agent_plugin.foundation import TrainedPlanner, train_planner
from mlflow_agent_plugin.foundation.planner.intent_model import PLANNER_FILES


@pytest.mark.parametrize(
    ("texts", "labels", "message"),
    [
        ([], [], "at least two intents, the examples have 0"),
        (["a", "b"], ["x", "x"], "have 1"),
        (["a"], ["x", "y"], "1 texts and 2 labels"),
        (["a", " "], ["x", "y"], "example 2: the text is empty"),
        (["a", None], ["x", "y"], "example 2: the text is empty"),
        (["a", "b"], ["x", ""], "example 2: the label is empty"),
    ],
)
def test_unusable_examples_are_refused(texts, labels, message):
    with pytest.raises(PlannerError, match=message):
        train_planner(texts, labels)


def test_two_examples_of_two_intents_are_enough():
    planner = train_planner(["open the door", "close the window"], ["door", "window"])
    assert planner.predict(["door", "window"])[0][0] == "door"
    assert planner.card.background is None


def test_what_was_trained_is_understood(trained):
    (label, confidence), *_ = trained.rank("help, a thief took my card")
    assert label == "stolen_card"
    assert confidence > 0.5


def test_confidence_is_a_probability_with_room_for_none_of_these(trained):
    shares = trained.predict_proba(["my card was stolen", "xyzzy", ""])
    assert shares.shape == (3, 5)
    assert (shares >= 0).all()
    assert (shares.sum(axis=1) <= 1 + 1e-6).all()


def test_a_message_about_something_else_gets_little_confidence(trained):
    inside = trained.predict(["my card was stolen", "I want to close my account"])
    outside = trained.predict(["zebras graze quietly", ""])
    assert min(c for _, c in inside) > max(c for _, c in outside)


def test_out_of_scope_examples_are_a_class_of_their_own(trained):
    texts = ["my card was stolen", "card lost", "sing a song", "play some music"]
    planner = train_planner(texts, ["card", "card", "out_of_scope", "out_of_scope"])
    assert planner.predict(["play a song"])[0][0] == "out_of_scope"


WHO = ("wife", "son", "boss", "bank", "shop", "friend", "uncle", "aunt", "client", "landlord")
LATE = [f"my transfer to my {who} {what}" for who in WHO
        for what in ("is late", "takes long", "has not come", "is slow", "needs how long")]  # fmt: skip
CLOSE = [f"close the account of my {who} {when}" for who in WHO
         for when in ("now", "please", "today", "at once", "for good")]  # fmt: skip


def test_an_intent_with_few_examples_is_not_swallowed_by_the_one_beside_it():
    pending = [f"my transfer to my {who} is pending" for who in WHO[:6]]
    labels = ["late"] * len(LATE) + ["close"] * len(CLOSE) + ["pending"] * len(pending)
    planner = train_planner(LATE + CLOSE + pending, labels)
    # With the same weight for every intent: 0.27.
    label, confidence = planner.predict(["is my transfer pending or late"])[0]
    assert label == "pending"
    assert confidence > 0.9


def test_an_intent_with_one_example_does_not_draw_what_is_not_understood():
    labels = ["late"] * len(LATE) + ["close"] * len(CLOSE) + ["club"]
    planner = train_planner([*LATE, *CLOSE, "who may join the club"], labels)
    assert planner.predict(["may I join the club"])[0][0] == "club"
    # Were its scarcity made up for without bound: 0.15 and 0.33.
    assert max(confidence for _, confidence in planner.predict(["zebras graze quietly", ""])) < 0.01


def test_ranking_and_prediction_agree(trained):
    text = "refund my shoes"
    assert trained.rank(text)[0] == trained.predict([text])[0]
    assert sorted(label for label, _ in trained.rank(text)) == list(trained.classes)


def test_same_examples_and_seed_give_the_same_bytes():
    texts, labels = ["a cat", "a dog", "the cat", "the dog"] * 12, ["c", "d"] * 24
    first = train_planner(texts, labels, seed=3).to_files()
    assert first == train_planner(texts, labels, seed=3).to_files()
    assert first != train_planner(texts, labels, seed=4).to_files()


def test_a_saved_planner_predicts_the_same(trained, tmp_path):
    trained.save(tmp_path / "planner")
    loaded = TrainedPlanner.load(tmp_path / "planner")
    texts = ["my card was stolen", "when do you open"]
    assert np.array_equal(loaded.predict_proba(texts), trained.predict_proba(texts))
    assert loaded.to_files() == trained.to_files()


def test_saving_replaces_a_planner_and_leaves_nothing_else(trained, tmp_path):
    for _ in range(2):
        trained.save(tmp_path / "planner")
    assert sorted(p.name for p in (tmp_path / "planner").iterdir()) == sorted(PLANNER_FILES)
    assert [p.name for p in tmp_path.iterdir() if "planner" in p.name] == ["planner"]


def test_a_folder_with_other_files_is_never_replaced(trained, tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(PlannerError, match=r"holds .*, which is no file of a planner"):
        trained.save(tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_a_missing_planner_says_how_to_train_one(tmp_path):
    with pytest.raises(PlannerError, match=r"no readable card\.json.*pipelines\.train"):
        TrainedPlanner.load(tmp_path / "planner")


@pytest.mark.parametrize("name", ["vocabulary.json", "weights.npz"])
def test_any_changed_byte_is_noticed(trained, name):
    files = trained.to_files()
    changed = bytearray(files[name])
    changed[len(changed) // 2] ^= 1
    with pytest.raises(PlannerError, match="does not belong"):
        TrainedPlanner.from_files({**files, name: bytes(changed)})


def test_files_of_two_planners_do_not_mix(trained):
    other = train_planner(["a cat", "a dog"], ["c", "d"]).to_files()
    with pytest.raises(PlannerError, match="does not belong"):
        TrainedPlanner.from_files({**trained.to_files(), "weights.npz": other["weights.npz"]})


class _Bomb:
    def __reduce__(self):
        return (print, ("executed",))


def test_a_pickle_in_the_weights_is_refused_and_never_runs(trained, capsys):
    buffer = io.BytesIO()
    np.savez(buffer, idf=np.array([_Bomb()], dtype=object), coefficients=0, intercepts=0)
    assert pickle.dumps(_Bomb())[:1] == b"\x80"
    with pytest.raises(PlannerError, match="malformed"):
        TrainedPlanner.from_files(_with(trained, "weights.npz", buffer.getvalue()))
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("card.json", b""),
        ("card.json", b"[]"),
        ("card.json", b"\xff"),
        ("vocabulary.json", b"{}"),
        ("vocabulary.json", b'{"words": ["a", "a"], "characters": ["b"]}'),
        ("vocabulary.json", b'{"words": [1], "characters": ["b"]}'),
        ("vocabulary.json", b"[" * 100_000),
        ("weights.npz", b""),
        ("weights.npz", b"PK\x03\x04nonsense"),
    ],
)
def test_malformed_files_are_one_clear_error(trained, name, content):
    with pytest.raises(PlannerError) as caught:
        TrainedPlanner.from_files(_with(trained, name, content), where="model/planner")
    assert str(caught.value).startswith("model/planner")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("classes", ["b", "a"]),
        ("classes", ["a"]),
        ("classes", ["a", "b"]),
        ("scale", 0),
        ("scale", float("nan")),
        ("format", "mlflow-agents/planner-2"),
        ("surprise", 1),
    ],
)
def test_a_card_that_does_not_fit_is_refused(trained, field, value):
    files = trained.to_files()
    card = json.loads(files["card.json"]) | {field: value}
    with pytest.raises(PlannerError):
        TrainedPlanner.from_files({**files, "card.json": json.dumps(card).encode()})


def test_weights_that_are_not_finite_are_refused(trained):
    broken = dataclasses.replace(trained, intercepts=trained.intercepts * np.float32("nan"))
    with pytest.raises(PlannerError, match="finite"):
        TrainedPlanner.from_files(broken.to_files())


def test_a_very_long_message_is_cut_not_refused(trained):
    assert trained.predict(["my card was stolen " * 60_000])[0][0] == "stolen_card"


def test_loading_and_predicting_import_no_pickle_based_library(trained, tmp_path):
    trained.save(tmp_path / "planner")
    code = (
        "import sys; from mlflow_agent_plugin.foundation import TrainedPlanner;"
        f"TrainedPlanner.load({str(tmp_path / 'planner')!r}).predict(['hi']);"
        "print(sorted({'skops', 'mlflow', 'langchain_core'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def _with(planner, name, content):
    """Return the planner's files with one replaced, its card agreeing to that."""
    import hashlib

    files = {**planner.to_files(), name: content}
    if name != "card.json":
        card = json.loads(files["card.json"])
        card["files"][name] = hashlib.sha256(content).hexdigest()
        files["card.json"] = json.dumps(card).encode()
    return files
