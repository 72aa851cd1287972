"""Drift over a monitoring table that one machine should not read: Spark reduces it to sessions.

Rules:
- Drift is judged on one row per session, its first (see `drift.features`). Spark finds these rows;
  what comes to this process is a row per session, and the verdict is the same as over all rows.
- Spark reads the table as it lies: day folders, UTC. For a bucket give a Spark data frame, read the
  way the cluster reads buckets.
"""

from __future__ import annotations

import os
import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow_agent_plugin.errors import ConfigError, DataError

if TYPE_CHECKING:
    import pandas as pd


def spark_session(name: str) -> Any:
    """Return the active Spark session, or a new one called `name`.

    Raises:
        ConfigError: Spark is not installed.
    """
    try:
        from pyspark.sql import SparkSession
    except ImportError as error:
        raise ConfigError(
            "Spark is not installed", hint="pip install 'mlflow-agent-plugin[spark]'"
        ) from error
    active = SparkSession.getActiveSession()
    if active is not None:
        return active
    # A session of our own runs Python as this process does; an existing one knows its cluster.
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    return (
        SparkSession.builder.appName(name)
        .config("spark.ui.showConsoleProgress", "false")
        .getOrCreate()
    )


def sessions_on_spark(
    table: Any, *, since: datetime | None = None, until: datetime | None = None
) -> pd.DataFrame:
    """Return the first row of each session with ``since <= event_time < until``, for `check_drift`.

    Args:
        table: Folder of a monitoring table, or a Spark data frame of its rows.
        since: Start of the window, with time zone.
        until: End of the window, with time zone.

    Returns:
        A pandas frame; ``attrs["rows"]`` is how many rows the window had.

    Raises:
        ConfigError: Spark is not installed, or there is no session to read a folder with.
        DataError: There is no table, or it lacks what identifies a row.
    """
    try:
        from pyspark.sql import SparkSession, Window
        from pyspark.sql import functions as sql
    except ImportError as error:
        raise ConfigError(
            "Spark is not installed", hint="pip install 'mlflow-agent-plugin[spark]'"
        ) from error
    import pandas as pd

    frame = table
    if isinstance(table, (str, Path)):
        session = SparkSession.getActiveSession()
        if session is None:
            raise ConfigError("there is no active Spark session", where="sessions_on_spark")
        if not any(Path(table).glob("day=*/part.parquet")):
            raise DataError("no monitoring table here", where=str(table))
        frame = session.read.parquet(*map(str, Path(table).glob("day=*/part.parquet")))
    missing = [
        name for name in ("trace_id", "event_time", "session_id") if name not in frame.columns
    ]
    if missing:
        raise DataError(f"lacks the column {', '.join(missing)}", where="sessions_on_spark")
    if since is not None:
        frame = frame.where(sql.unix_micros("event_time") >= int(since.timestamp() * 1_000_000))
    if until is not None:
        frame = frame.where(sql.unix_micros("event_time") < int(until.timestamp() * 1_000_000))
    keys = [name for name in ("tenant", "session_id") if name in frame.columns]
    frame = frame.dropDuplicates(["trace_id"])
    order = Window.partitionBy(*keys).orderBy("event_time", "trace_id")
    # Times travel as numbers: what Spark makes of them in pandas depends on its time zone.
    firsts = (
        frame.withColumn("_rows", sql.count("*").over(Window.partitionBy(*keys)))
        .withColumn("_place", sql.row_number().over(order))
        .where("_place = 1")
        .withColumn("event_time", sql.unix_micros("event_time"))
        .drop("_place")
    )
    rows: pd.DataFrame = firsts.toPandas()
    total = int(rows.pop("_rows").sum())
    rows["event_time"] = pd.to_datetime(rows["event_time"], unit="us", utc=True)
    rows = rows.sort_values(["event_time", "trace_id"], kind="stable", ignore_index=True)
    rows.attrs["rows"] = total
    return rows
