"""The demo's customers: real queries, each in a conversation of its own, over seven days.

The days are recent ones that are replayed faster than they passed: each request carries the time
it stands for, which a served agent accepts only where its operator allows replays.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

from mlflow_agent_plugin.entities import Actor
from mlflow_agent_plugin.interaction.demo.serving import Client

OUT_OF_SCOPE = "out_of_scope"


@dataclass(frozen=True)
class Query:
    """One customer's query; `intent` is what the data set's annotators say it is."""

    text: str
    intent: str
    customer: str
    at: datetime


@dataclass(frozen=True)
class Answered:
    """A query and how it went."""

    query: Query
    outcome: str
    intent: str | None
    trace_id: str | None


def plan_week(
    known: Sequence[tuple[str, str]],
    new: Sequence[tuple[str, str]],
    unrelated: Sequence[str],
    *,
    per_day: int,
    quiet_days: int,
    seed: int,
    customers: Sequence[str],
) -> list[Query]:
    """Mix a week of queries: first known ones only, then mostly new ones.

    Args:
        known: (text, intent) of intents the agent was trained on.
        new: Of intents it was not.
        unrelated: Texts that are no bank's business.
        per_day: Queries a day.
        quiet_days: Days before the new ones begin.
        seed: Of the mix.
        customers: Ids; queries take them in turn.
    """
    mix = random.Random(seed)  # noqa: S311 - a mix, not a secret
    old, fresh, other = list(known), list(new), list(unrelated)
    for items in (old, fresh, other):
        mix.shuffle(items)
    today = datetime.now(timezone.utc).replace(hour=8, minute=0, second=0, microsecond=0)
    week: list[Query] = []
    for day in range(7):
        shifted = day >= quiet_days
        counts = (round(per_day * 0.55), round(per_day * 0.08)) if shifted else (0, 0)
        texts = [fresh.pop() for _ in range(min(counts[0], len(fresh)))]
        texts += [(other.pop(), OUT_OF_SCOPE) for _ in range(min(counts[1], len(other)))]
        texts += [old.pop() for _ in range(min(per_day - len(texts), len(old)))]
        mix.shuffle(texts)
        begin = today - timedelta(days=7 - day)
        for number, (text, intent) in enumerate(texts):
            week.append(
                Query(
                    text=text,
                    intent=intent,
                    customer=customers[len(week) % len(customers)],
                    at=begin + timedelta(minutes=number * 10 * 60 / per_day),
                )
            )
    return week


def send(
    client: Client,
    queries: Sequence[Query],
    *,
    token: Callable[[Actor], str],
    session: str,
    threads: int = 4,
) -> list[Answered]:
    """Send every query over HTTP and return how each went, in order."""

    def one(numbered: tuple[int, Query]) -> Answered:
        number, query = numbered
        actor = Actor(query.customer, roles=frozenset({"customer"}))
        response = client.ask(
            query.text,
            session_id=f"{session}-{number:05d}",
            token=token(actor),
            event_time=query.at.isoformat(),
        )
        said = response["custom_outputs"]
        return Answered(query, said["outcome"], said["intent"], said["trace_id"])

    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(one, enumerate(queries)))
