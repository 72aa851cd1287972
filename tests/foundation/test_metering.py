"""No call of a model without a reservation, and none that is not settled to what it took."""

from __future__ import annotations

import asyncio

import pytest
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage

from mlflow_agent_plugin.errors import BudgetExceededError
from mlflow_agent_plugin.foundation.metering import DEFAULT_OUTPUT_TOKENS, put_on
from mlflow_agent_plugin.foundation.usage import ModelUsage
from mlflow_agent_plugin.package import ModelSpec

SPEC = ModelSpec(
    provider="openai",
    name="m",
    price={"input_usd_per_million_tokens": 2, "output_usd_per_million_tokens": 10},
)


class Meter:
    """Keeps what it is asked and told."""

    def __init__(self, limit=10**9):
        self.limit = limit
        self.begun = []
        self.ended = []

    def begin(self, spec, estimate):
        if estimate.tokens > self.limit:
            raise BudgetExceededError("too much")
        self.begun.append((spec.name, estimate))
        return len(self.begun)

    def end(self, spec, reserved, usage):
        self.ended.append((reserved, usage))


def model(*answers, meter, spec=SPEC):
    def play():
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer
            yield answer

    return put_on(GenericFakeChatModel(messages=play()), spec, meter)


COUNTED = AIMessage(
    "hi", usage_metadata={"input_tokens": 7, "output_tokens": 3, "total_tokens": 10}
)


def test_a_call_reserves_its_input_and_the_longest_answer_and_is_settled_to_the_providers_count():
    meter = Meter()
    model(COUNTED, meter=meter).invoke("x" * 400)
    ((_, estimate),) = meter.begun
    assert 100 <= estimate.input_tokens <= 120
    assert estimate.output_tokens == DEFAULT_OUTPUT_TOKENS
    assert meter.ended == [(1, ModelUsage(7, 3))]


def test_the_longest_answer_is_what_the_settings_allow():
    meter = Meter()
    spec = SPEC.model_copy(update={"settings": {"max_tokens": 55}})
    model(COUNTED, meter=meter, spec=spec).invoke("x")
    assert meter.begun[0][1].output_tokens == 55


def test_a_provider_that_does_not_count_is_estimated_never_free():
    meter = Meter()
    model(AIMessage("y" * 400), meter=meter).invoke("x" * 400)
    ((_, used),) = meter.ended
    assert used.input_tokens >= 100
    assert used.output_tokens >= 100


def test_a_refused_call_never_reaches_the_model():
    meter, answers = Meter(limit=10), [COUNTED]
    chat = model(*answers, meter=meter)
    with pytest.raises(BudgetExceededError):
        chat.invoke("x")
    meter.limit = 10**9
    assert chat.invoke("x").text == "hi", "its answer is still there"


@pytest.mark.parametrize(
    ("error", "kept"), [(ValueError("no"), False), (TimeoutError("slow"), True)]
)
def test_a_call_that_failed_is_free_unless_it_ran_out_of_time(error, kept):
    meter = Meter()
    with pytest.raises(type(error)):
        model(error, meter=meter).invoke("x")
    ((_, used),) = meter.ended
    assert (used.tokens > 0) is kept


def test_a_graph_cannot_leave_the_meter_out_by_its_configuration():
    meter = Meter()
    chat = model(COUNTED, COUNTED, COUNTED, COUNTED, meter=meter)
    chat.invoke("x", config={"callbacks": []})
    chat.with_config(callbacks=[]).invoke("x")
    list(chat.bind(stop=["a"]).stream("x"))
    asyncio.run(chat.ainvoke("x"))
    assert len(meter.begun) == len(meter.ended) == 4


def test_each_fallback_is_metered_as_itself():
    meter = Meter()
    first = model(ConnectionError("gone"), meter=meter)
    second = model(COUNTED, meter=meter, spec=SPEC.model_copy(update={"name": "other"}))
    assert first.with_fallbacks([second]).invoke("x").text == "hi"
    assert [name for name, _ in meter.begun] == ["m", "other"]
    assert [used.tokens for _, used in meter.ended] == [0, 10]


def test_money_is_counted_in_millionths_and_never_rounded_away():
    assert ModelUsage(7, 3).micro_usd(SPEC) == 44
    assert ModelUsage(1, 0).micro_usd(SPEC) == 2
    cheap = SPEC.model_copy(
        update={
            "price": SPEC.price.model_copy(
                update={"input_usd_per_million_tokens": 0.01, "output_usd_per_million_tokens": 0.0}
            )
        }
    )
    assert ModelUsage(1, 0).micro_usd(cheap) == 1
    assert ModelUsage(5, 5).micro_usd(ModelSpec(provider="local", name="x")) == 0
