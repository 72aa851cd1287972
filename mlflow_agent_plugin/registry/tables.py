"""The registry's own tables, in the database of MLflow's model registry.

Rules:
- Names start with ``agent_``; MLflow's tables are never altered.
- A model is known by workspace, name and epoch: a model that was deleted and created again under
  the same name is the next epoch, and nothing granted to the old one counts for it. Its gate stays.
- What decides something is sealed: `seal` is this registry's signature over the row's other columns
  (see `registry.seal`), so that an edit past the registry shows.
- Times are ISO 8601 text in UTC: they are sealed and hashed.
- The tables are created under the database's lock; two processes that start at once take turns.
- On MySQL, names are compared as in MLflow's tables beside (a model is the same model to both),
  what people write is utf8mb4 whatever the database's default, and long texts are LONGTEXT.
"""

from __future__ import annotations

from sqlalchemy import (
    Column,
    Connection,
    Engine,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    inspect,
    text,
)
from sqlalchemy.dialects import mysql

metadata = MetaData()

_MYSQL = {"charset": "utf8mb4", "collation": "utf8mb4_bin"}
_PERSON = String(256).with_variant(mysql.VARCHAR(256, **_MYSQL), "mysql", "mariadb")
_TEXT = Text().with_variant(mysql.LONGTEXT(**_MYSQL), "mysql", "mariadb")

_KEY = 63, 256

gates = Table(
    "agent_gates",
    metadata,
    Column("workspace", String(_KEY[0]), primary_key=True),
    Column("name", String(_KEY[1]), primary_key=True),
    Column("epoch", Integer, nullable=False),
    Column("rules", _TEXT, nullable=False),
    Column("revision", Integer, nullable=False),
    Column("changed_at", String(40), nullable=False),
    Column("changed_by", _PERSON, nullable=False),
    Column("seal", _TEXT, nullable=False),
)

versions = Table(
    "agent_versions",
    metadata,
    Column("workspace", String(_KEY[0]), primary_key=True),
    Column("name", String(_KEY[1]), primary_key=True),
    Column("epoch", Integer, primary_key=True, autoincrement=False),
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("content_digest", String(80), nullable=False),
    Column("agent_digest", String(80), nullable=False),
    Column("agent", _PERSON, nullable=False),
    Column("author", _PERSON, nullable=False),
    Column("author_verified", Integer, nullable=False),
    Column("created_at", String(40), nullable=False),
    Column("rules", _TEXT),
    Column("contracts", _TEXT, nullable=False),
    Column("policy_tests", _TEXT, nullable=False),
    Column("seal", _TEXT, nullable=False),
    Index("agent_versions_by_content", "content_digest"),
)

evidence = Table(
    "agent_evidence",
    metadata,
    Column("evidence_id", String(32), primary_key=True),
    Column("workspace", String(_KEY[0]), nullable=False),
    Column("name", String(_KEY[1]), nullable=False),
    Column("agent_digest", String(80), nullable=False),
    Column("suite", String(128), nullable=False),
    Column("suite_digest", String(80), nullable=False),
    Column("results_digest", String(80), nullable=False),
    Column("run_id", String(64), nullable=False),
    Column("evaluated_at", String(40), nullable=False),
    Column("recorded_at", String(40), nullable=False),
    Column("recorded_by", _PERSON, nullable=False),
    Column("envelope", _TEXT, nullable=False),
    Column("results", LargeBinary(2**30), nullable=False),
    Column("seal", _TEXT, nullable=False),
    Index("agent_evidence_by_agent", "workspace", "name", "agent_digest", "suite"),
)

revocations = Table(
    "agent_evidence_revocations",
    metadata,
    Column("revocation_id", String(32), primary_key=True),
    Column("workspace", String(_KEY[0]), nullable=False),
    Column("name", String(_KEY[1]), nullable=False),
    Column("run_id", String(64), nullable=False),
    Column("revoked_by", _PERSON, nullable=False),
    Column("verified", Integer, nullable=False),
    Column("reason", _TEXT, nullable=False),
    Column("at", String(40), nullable=False),
    Column("seal", _TEXT, nullable=False),
    Index("agent_evidence_revocations_by_model", "workspace", "name"),
)

requests = Table(
    "agent_promotion_requests",
    metadata,
    Column("request_id", String(32), primary_key=True),
    Column("workspace", String(_KEY[0]), nullable=False),
    Column("name", String(_KEY[1]), nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("version", Integer, nullable=False),
    Column("slot", String(260), nullable=False),
    Column("number", Integer, nullable=False),
    Column("state", String(16), nullable=False),
    Column("requested_by", _PERSON, nullable=False),
    Column("verified", Integer, nullable=False),
    Column("comment", _TEXT, nullable=False),
    Column("created_at", String(40), nullable=False),
    Column("closed_at", String(40)),
    Column("closed_by", _PERSON),
    Column("reason", _TEXT),
    Column("seal", _TEXT, nullable=False),
    Index("agent_promotion_requests_by_slot", "workspace", "name", "epoch", "slot"),
)

applies = Table(
    "agent_promotion_applies",
    metadata,
    # A request without a row waits for somebody to promote: so does one whose row was removed.
    Column("request_id", String(32), primary_key=True),
    Column("at", String(40), nullable=False),
    Column("seal", _TEXT, nullable=False),
)

answers = Table(
    "agent_promotion_answers",
    metadata,
    Column("answer_id", String(32), primary_key=True),
    Column("request_id", String(32), nullable=False),
    Column("user_name", _PERSON, nullable=False),
    Column("verified", Integer, nullable=False),
    Column("roles", _TEXT, nullable=False),
    Column("subject", String(80), nullable=False),
    Column("comment", _TEXT, nullable=False),
    Column("at", String(40), nullable=False),
    Column("seal", _TEXT, nullable=False),
    Index("agent_promotion_answers_by_request", "request_id"),
)

comments = Table(
    "agent_promotion_comments",
    metadata,
    Column("comment_id", String(32), primary_key=True),
    Column("request_id", String(32), nullable=False),
    Column("user_name", _PERSON, nullable=False),
    Column("verified", Integer, nullable=False),
    Column("comment", _TEXT, nullable=False),
    Column("at", String(40), nullable=False),
    Column("seal", _TEXT, nullable=False),
    Index("agent_promotion_comments_by_request", "request_id"),
)

history = Table(
    "agent_slot_history",
    metadata,
    Column("workspace", String(_KEY[0]), primary_key=True),
    Column("name", String(_KEY[1]), primary_key=True),
    Column("slot", String(260), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("epoch", Integer, nullable=False),
    Column("kind", String(16), nullable=False),
    Column("version", Integer),
    Column("content_digest", String(80)),
    Column("agent_digest", String(80)),
    Column("actor", _PERSON, nullable=False),
    Column("verified", Integer, nullable=False),
    Column("reason", _TEXT, nullable=False),
    Column("request_id", String(32)),
    Column("report", _TEXT, nullable=False),
    Column("at", String(40), nullable=False),
    Column("prev_hash", String(80), nullable=False),
    Column("hash", String(80), nullable=False),
    Column("seal", _TEXT, nullable=False),
)

_POSTGRES_LOCK = 0x6167656E7473  # any fixed number; every process must use the same
_MYSQL_LOCK = "mlflow-agent-plugin-schema"


def ensure_tables(engine: Engine) -> None:
    """Create the tables that are missing."""
    wanted = set(metadata.tables)
    if wanted <= set(inspect(engine).get_table_names()):
        return
    with engine.connect() as connection:
        _lock(connection)
        try:
            metadata.create_all(connection, checkfirst=True)
            connection.commit()
        finally:
            if connection.dialect.name == "mysql":
                connection.execute(text("SELECT RELEASE_LOCK(:name)"), {"name": _MYSQL_LOCK})


def _lock(connection: Connection) -> None:
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("PRAGMA busy_timeout = 20000")
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    elif connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _POSTGRES_LOCK})
    elif connection.dialect.name == "mysql":
        connection.execute(text("SELECT GET_LOCK(:name, 60)"), {"name": _MYSQL_LOCK})
