"""Which requests are labelled next."""

import pandas as pd
import pytest

from mlflow_agent_plugin.errors import DataError
from mlflow_agent_plugin.lifecycle import choose_for_labelling
from mlflow_agent_plugin.lifecycle.labels import FEEDBACK_COLUMNS
from mlflow_agent_plugin.lifecycle.selection import CHOSEN_COLUMNS


def traffic(*rows):
    names = ["trace_id", "text", "confidence"]
    return pd.DataFrame(list(rows), columns=names).assign(intent="guess", outcome="answered")


def feedback(*rows):
    frame = pd.DataFrame(list(rows), columns=list(FEEDBACK_COLUMNS))
    counts = ["thumbs_up", "thumbs_down", "approved", "rejected", "edited"]
    return frame.fillna(dict.fromkeys(counts, 0))


def texts(*args, **kwargs):
    return choose_for_labelling(*args, **kwargs)["text"].tolist()


def test_without_traffic_nothing_is_chosen_and_the_columns_are_there():
    found = choose_for_labelling(traffic(), 5)
    assert found.empty
    assert tuple(found.columns) == CHOSEN_COLUMNS


def test_what_the_agent_was_least_sure_of_comes_first_and_the_unknown_before_all():
    rows = traffic(("a", "sure", 0.9), ("b", "unsure", 0.2), ("c", "half", 0.5), ("d", "?!", 0.0),
                   ("e", None, 0.0), ("f", "unknown", None))  # fmt: skip
    assert texts(rows, 3) == ["unknown", "unsure", "half"]
    assert texts(rows.sample(frac=1, random_state=1), 9) == ["unknown", "unsure", "half", "sure"]


def test_a_text_is_asked_about_once_and_not_again_when_it_has_a_label():
    rows = traffic(("a", "Where is it?", 0.3), ("b", "where is it", 0.2), ("c", "other", 0.4))
    assert texts(rows, 9) == ["where is it", "other"]
    known = feedback({"trace_id": "z", "text": "WHERE is it", "label": "card_arrival"})
    assert texts(rows, 9, feedback=known) == ["other"]


def test_what_somebody_found_wrong_comes_before_what_nobody_looked_at():
    rows = traffic(("a", "sure", 0.9), ("b", "unsure", 0.2), ("c", "edited", 0.8))
    said = feedback(
        {"trace_id": "a", "text": "sure", "thumbs_down": 1},
        {"trace_id": "c", "text": "edited", "edited": 2},
        {"trace_id": "b", "text": "unsure", "thumbs_up": 1},
    )
    assert texts(rows, 9, feedback=said) == ["edited", "sure", "unsure"]


def test_where_the_labels_say_the_agent_is_wrong_more_is_asked():
    """The gadget is what the agent was most sure of."""
    said = feedback(
        *({"trace_id": f"g{n}", "text": f"my gadget number {n} broke", "intent": "card",
           "label": "gadget"} for n in range(25)),
        *({"trace_id": f"c{n}", "text": f"my card number {n} broke", "intent": "card",
           "label": "card"} for n in range(25)),
    )  # fmt: skip
    cards = [
        (f"t{n}", f"the card of my {who}", 0.7) for n, who in enumerate(("wife", "son", "cat"))
    ]
    rows = traffic(*cards, ("t9", "the gadget of my wife", 0.71))
    assert texts(rows, 9).index("the gadget of my wife") == 3
    assert texts(rows, 9, feedback=said).index("the gadget of my wife") < 3


def test_what_the_agent_has_no_name_for_is_asked_before_what_it_mixes_up():
    """Half of the cards were fees, which the agent knows; the gadgets it has no name for."""
    said = feedback(
        *({"trace_id": f"g{n}", "text": f"my gadget number {n} broke", "intent": "card",
           "label": "gadget"} for n in range(25)),
        *({"trace_id": f"f{n}", "text": f"my fee number {n} is high", "intent": "card",
           "label": "fee"} for n in range(25)),
        *({"trace_id": f"c{n}", "text": f"my card number {n} broke", "intent": "card",
           "label": "card"} for n in range(25)),
    )  # fmt: skip
    people = ("wife", "son", "cat")
    fees = [(f"t{n}", f"the fee of my {who}", 0.70) for n, who in enumerate(people)]
    gadgets = [(f"u{n}", f"the gadget of my {who}", 0.71) for n, who in enumerate(people)]
    rows = traffic(*fees, *gadgets, ("v", "something else", 0.9)).assign(intent="card")
    rows.loc[rows["trace_id"] == "v", "intent"] = "fee"
    found = texts(rows, 3, feedback=said)
    assert sum("gadget" in text for text in found) >= 2
    # To the agent that never says "fee", fees are as new as gadgets.
    ignorant = texts(rows.assign(intent="card"), 3, feedback=said)
    assert sum("gadget" in text for text in ignorant) < len(found)


def test_what_makes_no_sense_is_refused():
    with pytest.raises(DataError, match="confidence"):
        choose_for_labelling(traffic().drop(columns="confidence"), 5)
    with pytest.raises(DataError, match="positive"):
        choose_for_labelling(traffic(), 0)
