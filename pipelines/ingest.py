"""Stage 1: base data and labelled feedback become one dataset.

Rules:
- Feedback wins over base data on the same text; of two labels on one text the newer one counts.
- A share of the feedback is kept back, chosen by the text itself: the same request is always on the
  same side. It is tested on, never trained on; nor is anything in the base data's test split.
- Texts are masked before they are written. Nothing is repaired here: an empty text or an unknown
  label goes on to the validation, which stops the pipeline and names it.
- All that people said (remarks) is written too, as a table of its own, for the validation and for
  DVC; nothing is trained on it but its corrections.
- Where the results will go (tracking and registry) is noted too: another server, another candidate.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow_agent_plugin.entities.sensitive import mask_text
from mlflow_agent_plugin.foundation.planner.words import fold
from pipelines.data import find_banking77, read_labelled
from pipelines.feedback import read_feedback
from pipelines.stage import Params, stage, write_json

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("text", "category", "source", "split", "row")
REQUESTS_FILE = "requests.csv"


def ingest(params: Params) -> str:
    """Join base data and labelled feedback to the dataset."""
    import pandas as pd

    wanted = params.ingest
    if wanted.base:
        folder, statement = Path(wanted.base), f"Data: {Path(wanted.base).name}."
    else:
        source = find_banking77()
        folder, statement = source.folder, source.statement
    base = read_labelled(folder / "train.csv")
    base = base[~base["category"].isin(wanted.exclude_intents)]
    tests = read_labelled(folder / "test.csv") if (folder / "test.csv").is_file() else base.iloc[:0]
    feedback, remarks = read_feedback(Path(wanted.feedback))
    requests = combine(base, tests, feedback, holdout_share=wanted.holdout_share)
    counts = requests.groupby(["source", "split"]).size()
    out = params.dataset
    out.mkdir(parents=True, exist_ok=True)
    training = requests[requests["split"] == "train"]
    held = requests[requests["split"] == "holdout"]
    known = set(training["category"])
    tests = tests[tests["category"].isin(known)]
    _write(requests, out / REQUESTS_FILE)
    _write(training[["text", "category"]], out / "train.csv")
    _write(pd.concat([tests, held[["text", "category"]]]), out / "test.csv")
    _write(held[["text", "category"]], out / "holdout.csv")
    _write(remarks, params.remarks)
    write_json(
        out / "ingest.json",
        {
            "data": statement,
            "train": len(training),
            "holdout": len(held),
            "feedback": len(feedback),
            "in_test_split": int(requests.attrs["in_test_split"]),
            "relabelled": int(requests.attrs["relabelled"]),
            "intents": int(training["category"].nunique()),
        },
    )
    write_json(params.result("target"), target())
    shown = ", ".join(f"{n} {source}/{split}" for (source, split), n in counts.items())
    return f"{statement} {shown}"


def combine(
    base: pd.DataFrame, tests: pd.DataFrame, feedback: pd.DataFrame, *, holdout_share: float
) -> pd.DataFrame:
    """Return the dataset, `COLUMNS`.

    Args:
        base: ``text`` and ``category``.
        tests: The base data's test split; its texts are left out everywhere.
        feedback: ``text``, ``label``, ``row`` and ``labelled_at``; later rows win over earlier ones
            of the same time.
        holdout_share: Share of the feedback kept back.
    """
    import pandas as pd

    base = base.assign(
        source="base", split="train", row=range(len(base)), key=base["text"].map(_key)
    )
    given = feedback.sort_values("labelled_at", kind="stable", na_position="first")
    given = given.rename(columns={"label": "category"}).assign(
        text=given["text"].map(mask_text), key=given["text"].map(_key), source="feedback"
    )
    given["split"] = [
        "holdout" if key and _share(key) < holdout_share else "train" for key in given["key"]
    ]
    # A row without text cannot be the same request as another: each stays, to be reported.
    last = given.duplicated("key", keep="last") & (given["key"] != "")
    relabelled = int(last.sum())
    given = given[~last]
    before = len(base) + len(given)
    tested = set(tests["text"].map(_key))
    base, given = (part[~part["key"].isin(tested)] for part in (base, given))
    in_test_split = before - len(base) - len(given)
    base = base[~base["key"].isin(set(given["key"]))].drop_duplicates(["key", "category"])
    whole = pd.concat([base, given], ignore_index=True)[list(COLUMNS)]
    whole.attrs.update(in_test_split=in_test_split, relabelled=relabelled)
    return whole


def target() -> dict[str, Any]:
    """Return a digest of where results go; the addresses may hold passwords."""
    names = ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI")
    joined = "\n".join(os.environ.get(name, "") for name in names)
    return {"target": "sha256:" + hashlib.sha256(joined.encode()).hexdigest()}


def _key(text: str) -> str:
    return " ".join(fold(text))


def _share(key: str) -> float:
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:6], "big") / 2**48


def _write(frame: pd.DataFrame, path: Path) -> None:
    frame.to_csv(path, index=False, lineterminator="\n")


main = stage(ingest)

if __name__ == "__main__":
    main()
