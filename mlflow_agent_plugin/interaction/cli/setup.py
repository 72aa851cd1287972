"""Commands that set things up: key, db, doctor."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from mlflow_agent_plugin.interaction.cli.answer import Answer, Table
from mlflow_agent_plugin.interaction.cli.group import answers
from mlflow_agent_plugin.interaction.cli.options import FILE, store_option

if TYPE_CHECKING:
    from mlflow_agent_plugin.trust import KeyPurpose, KeyStore


@click.group()
def key() -> None:
    """Keys that sign evidence, actor tokens and audit checkpoints."""


def _key_store() -> KeyStore:
    from mlflow_agent_plugin.config import Settings
    from mlflow_agent_plugin.trust import KeyStore

    return KeyStore(Settings.from_env().key_dir)


_PURPOSE = click.option(
    "--for",
    "purpose",
    type=click.Choice(["evidence", "actors", "audit"]),
    help="Trust it for this only; default: for everything.",
)


@key.command("show")
@answers
def key_show() -> Answer:
    """Show this machine's signing key (made on first use) and the keys it trusts."""
    from mlflow_agent_plugin.trust import KeyPurpose

    store = _key_store()
    signing = store.signing_key().key_id
    general = set(store.trusted_keys())
    uses = {name: ["everything"] for name in general}
    for purpose in KeyPurpose:
        for name in set(store.trusted_keys(purpose)) - general:
            uses.setdefault(name, []).append(purpose.value)
    rows = [
        (name, "yes" if name == signing else "", ", ".join(found))
        for name, found in sorted(uses.items())
    ]
    revoked = sorted(store.revoked())
    rows += [(name, "", "revoked") for name in revoked]
    return Answer(
        {
            "folder": str(store.folder),
            "signing": signing,
            "trusted": uses,
            "revoked": revoked,
        },
        (Table(f"keys in {store.folder}", ("key id", "signs here", "trusted for"), rows),),
    )


@key.command("export")
@answers
def key_export() -> Answer:
    """Print this machine's public key, for `key trust` on another one."""
    from mlflow_agent_plugin.trust.keys import public_pem

    signing = _key_store().signing_key()
    pem = public_pem(signing.public_key).decode("ascii").strip()
    return Answer({"key_id": signing.key_id, "pem": pem}, (pem,))


@key.command("trust")
@click.argument("pem", type=FILE)
@_PURPOSE
@answers
def key_trust(pem: Path, purpose: str | None) -> Answer:
    """Trust the public key in the file PEM."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    from mlflow_agent_plugin.errors import ConfigError
    from mlflow_agent_plugin.trust import KeyPurpose

    hint = "Make one on the other machine by `mlflow-agents key export`."
    try:
        public = load_pem_public_key(pem.read_bytes())
    except ValueError as error:
        raise ConfigError("is not a PEM public key", where=str(pem), hint=hint) from error
    if not isinstance(public, Ed25519PublicKey):
        raise ConfigError("is not an Ed25519 key", where=str(pem), hint=hint)
    wanted: KeyPurpose | None = None if purpose is None else KeyPurpose(purpose)
    key_id = _key_store().trust(public, purpose=wanted)
    said = f"trusted for {purpose or 'everything'}: {key_id}"
    return Answer({"key_id": key_id, "purpose": purpose}, (said,))


@key.command("revoke")
@click.argument("key_id")
@click.option("--reason", required=True, help="Why; a note in the list of revoked keys.")
@answers
def key_revoke(key_id: str, reason: str) -> Answer:
    """Stop trusting a key, whoever holds it."""
    _key_store().revoke(key_id, note=reason)
    return Answer({"key_id": key_id, "reason": reason}, (f"revoked: {key_id}",))


@key.command("rotate")
@click.option("--revoke", is_flag=True, help="Stop trusting the old key: it was lost or stolen.")
@click.option("--reason", default="", help="Why; a note in the list of revoked keys.")
@answers
def key_rotate(revoke: bool, reason: str) -> Answer:  # noqa: FBT001 - click passes flags
    """Replace this machine's signing key; what the old one signed stays good unless revoked."""
    old, new = _key_store().rotate(revoke=revoke, note=reason)
    said = f"signs from now on: {new.key_id}"
    then = f"{'revoked' if revoke else 'trusted for what it signed'}: {old}"
    return Answer({"old": old, "new": new.key_id, "revoked": revoke}, (said, then))


@key.command("token")
@click.argument("actor", metavar="USER[@TENANT][:ROLE,ROLE]")
@click.option(
    "--ttl-seconds",
    default=3600,
    show_default=True,
    type=click.IntRange(1),
    help="How long it is good for.",
)
@answers
def key_token(actor: str, ttl_seconds: int) -> Answer:
    """Issue a signed token for `custom_inputs.actor_token`: its bearer is this actor."""
    from mlflow_agent_plugin.trust import issue_token, parse_actor

    parsed = parse_actor(actor)
    token = issue_token(parsed, _key_store().signing_key(), ttl_seconds)
    return Answer({"token": token, "actor": parsed.to_dict(), "ttl_seconds": ttl_seconds}, (token,))


@click.group()
def db() -> None:
    """The runtime store's schema."""


@db.command("status")
@store_option
@answers
def db_status(store_uri: str | None) -> Answer:
    """Say at which revision the store is, without changing it; exit 1 if it is not the newest."""
    from mlflow_agent_plugin.interaction.cli.doctor import store_revision

    where, revision, newest = store_revision(store_uri)
    said = f"{where}: " + (
        "not made yet" if revision is None else f"revision {revision}, newest {newest}"
    )
    return Answer(
        {"store": where, "revision": revision, "newest": newest},
        (said,),
        failed=revision != newest,
    )


@db.command("upgrade")
@store_option
@answers
def db_upgrade(store_uri: str | None) -> Answer:
    """Bring the store's schema up to date (opening the store does it too)."""
    from mlflow_agent_plugin.interaction.cli.doctor import store_revision
    from mlflow_agent_plugin.store import Store

    _, before, newest = store_revision(store_uri)
    with Store.open(store_uri) as store:
        where = store.uri
    said = f"{where}: at revision {newest}" + ("" if before == newest else f", was {before}")
    return Answer({"store": where, "before": before, "revision": newest}, (said,))


@click.command()
@answers
def doctor() -> Answer:
    """Check this machine and its settings.

    Exit 1 if something cannot work.
    """
    from mlflow_agent_plugin.interaction.cli.doctor import examine

    checks = examine()
    rows = [(item.status.value, item.name, item.found, item.todo) for item in checks]
    failed = any(item.failed for item in checks)
    return Answer(
        {"ok": not failed, "checks": [item.to_dict() for item in checks]},
        (Table("doctor", ("status", "what", "found", "what to do"), rows),),
        failed=failed,
    )


COMMANDS = (key, db, doctor)
