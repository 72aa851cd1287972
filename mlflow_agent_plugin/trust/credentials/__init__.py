"""Short-lived secrets for tool calls: lent at the call, taken back at its end, never shown.

- `credential`: what a tool holds while it runs.
- `provider`, `aws`, `vault`: where secrets come from.
- `sources`: which scope has which source.
- `lender`: lends and takes back.
- `scrubbing`: takes known values out of what a tool says.
"""

from mlflow_agent_plugin.trust.credentials.credential import Credential
from mlflow_agent_plugin.trust.credentials.lender import ScopedCredentials
from mlflow_agent_plugin.trust.credentials.provider import (
    CredentialProvider,
    CredentialRequest,
    EnvironmentProvider,
    FileProvider,
    IssuedSecret,
)
from mlflow_agent_plugin.trust.credentials.sources import (
    CredentialSources,
    open_providers,
    read_sources,
)

__all__ = [
    "Credential",
    "CredentialProvider",
    "CredentialRequest",
    "CredentialSources",
    "EnvironmentProvider",
    "FileProvider",
    "IssuedSecret",
    "ScopedCredentials",
    "open_providers",
    "read_sources",
]
