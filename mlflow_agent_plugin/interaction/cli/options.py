"""Arguments and options several commands share."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import click

FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
PATH = click.Path(path_type=Path)
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


class TablePlace(click.Path):
    """A folder, or ``s3://bucket/prefix``, which is passed on as it is."""

    name = "path"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> str | bytes | os.PathLike[str]:
        """Return a path, or the URI as text."""
        if str(value).startswith("s3://"):
            return str(value)
        return super().convert(value, param, ctx)


TABLE = TablePlace(path_type=Path)
EXISTING_TABLE = TablePlace(exists=True, file_okay=False, path_type=Path)


def read_version(ctx: click.Context, param: click.Parameter, text: str | None) -> int | None:
    """Return a version number, None if it was not given."""
    if text is None:
        return None
    if not text.isascii() or not text.isdigit() or not 0 < int(text[:12]) < 2**31:
        raise click.BadParameter(f"{text!r} is not a version number", ctx, param)
    return int(text)


def read_json_object(ctx: click.Context, param: click.Parameter, text: str) -> dict[str, Any]:
    """Return the JSON object an option holds."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise click.BadParameter(f"is not JSON: {error}", ctx, param) from error
    if not isinstance(found, dict):
        raise click.BadParameter("is not a JSON object", ctx, param)
    return found


def read_assignments(
    ctx: click.Context, param: click.Parameter, texts: tuple[str, ...]
) -> dict[str, str]:
    """Return what NAME=VALUE options say."""
    found = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise click.BadParameter(f"{text!r} is not NAME=VALUE", ctx, param)
        found[name] = value
    return found


def experiment_id(name_or_id: str) -> str:
    """Return the id of an experiment given by name or id."""
    from mlflow import MlflowClient

    found = MlflowClient().get_experiment_by_name(name_or_id)
    return str(found.experiment_id) if found is not None else name_or_id


def model_version(text: str) -> tuple[str, int]:
    """Return the parts of MODEL/VERSION, as ``--log`` takes it."""
    name, slash, version = text.rpartition("/")
    if not slash or not name or not version.isascii() or not version.isdigit():
        raise click.BadParameter("is not MODEL/VERSION", param_hint="--log")
    return name, int(version)


bundle_argument = click.argument("bundle", type=FOLDER)
name_argument = click.argument("name")
version_argument = click.argument("version", callback=read_version)
to_option = click.option(
    "--to", required=True, metavar="SLOT", help='A stage ("Production") or an alias ("@champion").'
)
comment_option = click.option("--comment", default="", help="Why; reviewers read it.")
by_option = click.option(
    "--as", "by", metavar="NAME", help="Your name, where nobody logs in (unverified)."
)
store_option = click.option(
    "--store",
    "store_uri",
    metavar="URI",
    help="The runtime store; default: MLFLOW_AGENTS_STORE_URI.",
)
actor_option = click.option(
    "--as",
    "actor_text",
    metavar="ACTOR",
    help="Who you are: user[@tenant][:role,role] (unverified); default: MLFLOW_AGENTS_ACTOR.",
)


json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
"""For commands that say one thing and then go on running."""
