"""What counts as sensitive data, and where it stands in a text: one definition for every room."""

from mlflow_agent_plugin.entities.sensitive.checksums import card_valid, iban_valid, luhn_valid
from mlflow_agent_plugin.entities.sensitive.finding import (
    ALL_CLASSES,
    RECORDED,
    find_sensitive,
    mask_text,
    mask_value,
    replace_findings,
)
from mlflow_agent_plugin.entities.sensitive.values import PRESIDIO_NAMES, DataClass, Finding

__all__ = [
    "ALL_CLASSES",
    "PRESIDIO_NAMES",
    "RECORDED",
    "DataClass",
    "Finding",
    "card_valid",
    "find_sensitive",
    "iban_valid",
    "luhn_valid",
    "mask_text",
    "mask_value",
    "replace_findings",
]
