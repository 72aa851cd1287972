"""How well and how fast personal data is found, beside stock Microsoft Presidio in the same run.

    python benchmarks/privacy.py [--data DIR] [--json benchmarks/results/privacy.json]

Data: presidio-research's synthetic sentences (``presidio-research/synth_dataset_v2.json`` below the
data folder, see docs/reference/data.md), split by a fixed seed into a development half, which the
patterns were written against, and a held-out half, which is reported. A finding is right if its
class is the label's and they share a character; *covered* says how many labelled values lie wholly
inside a finding of their class. What is found in real bank queries (BANKING77, test part), which
hold no personal data, are false alarms.

Stock Presidio is its `AnalyzerEngine` with all predefined English recognizers, an empty spaCy
pipeline (nothing is downloaded) and score threshold 0.4. CPU times are of one thread; on a loaded
machine compare the ratio. Needs the extra ``presidio``.
"""

from __future__ import annotations

import argparse
import csv
import json
import logging
import os
import platform
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mlflow_agent_plugin.entities.sensitive import find_sensitive

SEED = 20261122
TYPES = {
    "EMAIL_ADDRESS": "email",
    "CREDIT_CARD": "card",
    "IBAN_CODE": "iban",
    "PHONE_NUMBER": "phone",
    "IP_ADDRESS": "ip",
    "DOMAIN_NAME": "url",
    "US_SSN": "us_ssn",
}
"""Label of the data set to our class; Presidio calls DOMAIN_NAME "URL"."""

Span = tuple[str, int, int]
Find = Callable[[str], list[Span]]


def ours(text: str) -> list[Span]:
    """Find with the package's patterns."""
    return [(f.data_class, f.start, f.end) for f in find_sensitive(text, set(TYPES.values()))]


def stock_presidio() -> Find:
    """Open Presidio as it comes, but for the model it would download."""
    import spacy
    from presidio_analyzer import AnalyzerEngine, RecognizerRegistry
    from presidio_analyzer.nlp_engine import SpacyNlpEngine

    logging.disable(logging.CRITICAL)  # it logs that it cannot fetch the list of domain suffixes

    class Blank(SpacyNlpEngine):  # type: ignore[misc]
        def load(self) -> None:
            self.nlp = {"en": spacy.blank("en")}

    engine = Blank(models=[{"lang_code": "en", "model_name": "blank"}])
    engine.load()
    registry = RecognizerRegistry()
    registry.load_predefined_recognizers(languages=["en"])
    analyzer = AnalyzerEngine(registry=registry, nlp_engine=engine, supported_languages=["en"])
    names = {"URL" if label == "DOMAIN_NAME" else label: kind for label, kind in TYPES.items()}

    def find(text: str) -> list[Span]:
        results = analyzer.analyze(text, "en", entities=list(names), score_threshold=0.4)
        return [(names[found.entity_type], found.start, found.end) for found in results]

    return find


def split(path: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the development and the held-out half."""
    texts = json.loads(path.read_text("utf-8"))
    order = list(range(len(texts)))
    random.Random(SEED).shuffle(order)
    half = len(order) // 2
    return [texts[i] for i in sorted(order[:half])], [texts[i] for i in sorted(order[half:])]


def measure(find: Find, texts: list[dict[str, Any]]) -> dict[str, Any]:
    """Return counts per class, totals, and CPU milliseconds per 1,024 characters."""
    counts = {kind: {"found": 0, "missed": 0, "wrong": 0, "covered": 0} for kind in TYPES.values()}
    find(texts[0]["full_text"])
    started = time.process_time()
    answers = [find(text["full_text"]) for text in texts]
    seconds = time.process_time() - started
    for text, answer in zip(texts, answers, strict=True):
        labels = [
            (TYPES.get(s["entity_type"], ""), s["start_position"], s["end_position"])
            for s in text["spans"]
        ]
        for kind, start, end in labels:
            if not kind:
                continue
            same = [span for span in answer if span[0] == kind]
            found = any(a < end and start < b for _, a, b in same)
            counts[kind]["found" if found else "missed"] += 1
            counts[kind]["covered"] += any(a <= start and end <= b for _, a, b in same)
        for kind, start, end in answer:
            right = any(k == kind and a < end and start < b for k, a, b in labels)
            counts[kind]["wrong"] += not right
    keys = ("found", "missed", "wrong", "covered")
    total = {key: sum(c[key] for c in counts.values()) for key in keys}
    chars = sum(len(text["full_text"]) for text in texts)
    return {
        "classes": {kind: _rates(found) for kind, found in sorted(counts.items())},
        "all": _rates(total),
        "cpu_ms_per_kb": round(seconds * 1000 / (chars / 1024), 3),
    }


def _rates(c: dict[str, int]) -> dict[str, Any]:
    labelled, reported = c["found"] + c["missed"], c["found"] + c["wrong"]
    return {
        "labelled": labelled,
        "recall": round(c["found"] / labelled, 4) if labelled else None,
        "precision": round(c["found"] / reported, 4) if reported else None,
        "covered": round(c["covered"] / labelled, 4) if labelled else None,
    }


def long_text_cost(find: Find, texts: list[dict[str, Any]], chars: int = 4096) -> float:
    """Return CPU milliseconds per 1,024 characters in texts of `chars` characters."""
    whole = "\n".join(text["full_text"] for text in texts)
    parts = [whole[at : at + chars] for at in range(0, len(whole) - chars, chars)]
    started = time.process_time()
    for part in parts:
        find(part)
    return round((time.process_time() - started) * 1000 / (len(parts) * chars / 1024), 3)


def load_cost(statement: str) -> dict[str, float]:
    """Return CPU seconds of `statement` in a fresh process, and its peak memory (Linux)."""
    code = (
        "import time; t = time.process_time(); "
        f"{statement}; print(time.process_time() - t, *[line.split()[1] for line in "
        "open('/proc/self/status') if line.startswith('VmHWM')])"
    )
    path = os.pathsep.join(filter(None, [str(Path.cwd()), os.environ.get("PYTHONPATH", "")]))
    run = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    seconds, kilobytes = map(float, run.stdout.split()[-2:])
    return {"cpu_seconds": round(seconds, 2), "peak_mb": round(kilobytes / 1024)}


def false_alarms(find: Find, queries: list[str]) -> int:
    """Return in how many of `queries` something is found."""
    return sum(bool(find(query)) for query in queries)


def main() -> None:
    """Measure, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = os.environ.get("MLFLOW_AGENTS_DATA_DIR", "../shared/data")
    parser.add_argument("--data", type=Path, default=Path(default))
    parser.add_argument("--json", type=Path, default=Path("benchmarks/results/privacy.json"))
    options = parser.parse_args()
    development, held_out = split(options.data / "presidio-research" / "synth_dataset_v2.json")
    presidio = stock_presidio()
    result: dict[str, Any] = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "load_1m": round(os.getloadavg()[0], 1),
        "seed": SEED,
        "texts": {"development": len(development), "held_out": len(held_out)},
        "held_out": {"ours": measure(ours, held_out), "presidio": measure(presidio, held_out)},
        "development": {"ours": measure(ours, development)},
        "long_text_cpu_ms_per_kb": {
            "ours": long_text_cost(ours, held_out),
            "presidio": long_text_cost(presidio, held_out),
        },
        "load": {
            "ours": load_cost("import mlflow_agent_plugin.entities.sensitive"),
            "presidio": load_cost("import presidio_analyzer"),
        },
    }
    queries = options.data / "banking77" / "test.csv"
    if queries.exists():
        with queries.open(encoding="utf-8", newline="") as file:
            texts = [row["text"] for row in csv.DictReader(file)]
        result["false_alarms"] = {
            "queries": len(texts),
            "ours": false_alarms(ours, texts),
            "presidio": false_alarms(presidio, texts),
        }
    print(table(result))
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(result, indent=1) + "\n", "utf-8")


def table(result: dict[str, Any]) -> str:
    """Return the held-out results as a Markdown table."""
    mine, stock = result["held_out"]["ours"], result["held_out"]["presidio"]
    lines = [
        "| class | labelled | recall | precision | covered | Presidio | precision | covered |",
        "|---|---|---|---|---|---|---|---|",
    ]
    rows = [*mine["classes"], "all"]
    for kind in rows:
        a = mine["all"] if kind == "all" else mine["classes"][kind]
        b = stock["all"] if kind == "all" else stock["classes"][kind]
        cells = [
            a["recall"],
            a["precision"],
            a["covered"],
            b["recall"],
            b["precision"],
            b["covered"],
        ]
        shown = " | ".join("-" if cell is None else f"{cell:.3f}" for cell in cells)
        lines.append(f"| {kind} | {a['labelled']} | {shown} |")
    lines.append("")
    lines.append(
        f"CPU per 1,024 characters: {mine['cpu_ms_per_kb']} ms (sentences), "
        f"{result['long_text_cpu_ms_per_kb']['ours']} ms (4 kB texts); Presidio "
        f"{stock['cpu_ms_per_kb']} ms, {result['long_text_cpu_ms_per_kb']['presidio']} ms"
    )
    lines.append(f"Loading: {result['load']}")
    if "false_alarms" in result:
        lines.append(f"False alarms: {result['false_alarms']}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
