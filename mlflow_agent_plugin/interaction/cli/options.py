"""Arguments and options several commands share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
PATH = click.Path(path_type=Path)
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


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
