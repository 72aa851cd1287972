"""What happens to sensitive values on their way to the model, the user and the records.

What counts as sensitive is defined once, in `entities.sensitive`.
"""

from mlflow_agent_plugin.trust.privacy.filter import RuledPrivacyFilter, open_privacy
from mlflow_agent_plugin.trust.privacy.key import PrivacyKey
from mlflow_agent_plugin.trust.privacy.rules import PlaceRules, rules_of
from mlflow_agent_plugin.trust.privacy.texts import BlockedTextError, EntityFinder, RuledText
from mlflow_agent_plugin.trust.privacy.tokens import SessionTokens

__all__ = [
    "BlockedTextError",
    "EntityFinder",
    "PlaceRules",
    "PrivacyKey",
    "RuledPrivacyFilter",
    "RuledText",
    "SessionTokens",
    "open_privacy",
    "rules_of",
]
