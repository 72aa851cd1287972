"""What an agent is: manifest, bundle, digest, tool contract, prompt and the difference of two.

>>> bundle = load_bundle("agents/support")  # checks everything, runs nothing
>>> bundle.digest.value  # same content, same value, on any machine
'sha256:…'
>>> print(diff("agents/support", "agents/support-next").to_text())
"""

from mlflow_agent_plugin.package.bundle import Bundle, copy_bundle, load_bundle
from mlflow_agent_plugin.package.compatibility import (
    ContractChange,
    ContractStatus,
    compare_contracts,
)
from mlflow_agent_plugin.package.contract import ContractExample, RetryRule, ToolContract
from mlflow_agent_plugin.package.diff import BundleDiff, ChangeKind, FileChange, diff
from mlflow_agent_plugin.package.digest import (
    COMPONENTS,
    BundleDigest,
    FileDigest,
    compute_digest,
)
from mlflow_agent_plugin.package.importing import import_entry_point
from mlflow_agent_plugin.package.manifest import (
    API_VERSION,
    MANIFEST_FILE,
    Manifest,
    ModelSpec,
    RetrievalSpec,
    StrictModel,
    read_manifest,
)
from mlflow_agent_plugin.package.prompt import Prompt
from mlflow_agent_plugin.package.quotas import (
    HostQuota,
    QuotaResource,
    QuotaRule,
    QuotaScope,
    read_host_quotas,
)
from mlflow_agent_plugin.package.reading import (
    YamlDocument,
    parse_yaml,
    read_text,
    read_yaml,
    validate_document,
)

__all__ = [
    "API_VERSION",
    "COMPONENTS",
    "MANIFEST_FILE",
    "Bundle",
    "BundleDiff",
    "BundleDigest",
    "ChangeKind",
    "ContractChange",
    "ContractExample",
    "ContractStatus",
    "FileChange",
    "FileDigest",
    "HostQuota",
    "Manifest",
    "ModelSpec",
    "Prompt",
    "QuotaResource",
    "QuotaRule",
    "QuotaScope",
    "RetrievalSpec",
    "RetryRule",
    "StrictModel",
    "ToolContract",
    "YamlDocument",
    "compare_contracts",
    "compute_digest",
    "copy_bundle",
    "diff",
    "import_entry_point",
    "load_bundle",
    "parse_yaml",
    "read_host_quotas",
    "read_manifest",
    "read_text",
    "read_yaml",
    "validate_document",
]
