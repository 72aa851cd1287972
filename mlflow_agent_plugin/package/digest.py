"""The digest: one value that stands for everything a bundle holds.

Rules:
- The value is the SHA-256 of the canonical JSON (RFC 8785) of the list of all files, each as path,
  SHA-256 and size, sorted by path. Where the bundle lies, when its files were written and who may
  read them do not enter.
- Every file belongs to exactly one component; a component's digest covers its files and the
  sections of ``agent.yaml`` that describe it (`SECTIONS`). ``agent.yaml`` itself is a file of
  ``code``, whose digest takes from it only what no other component takes. So a change of a comment
  in ``agent.yaml`` changes the value and no component.
- The first rule of this list that fits a file names its component: graph module, prompts, tool
  contracts and modules, policies and gate.yaml, model, knowledge, and code for the rest.
- Files are read in chunks: a bundle may be larger than memory.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from mlflow_agent_plugin.entities import canonical_json, sha256_of_json
from mlflow_agent_plugin.errors import IntegrityError, ManifestError
from mlflow_agent_plugin.package.inventory import FileEntry, open_regular, scan
from mlflow_agent_plugin.package.manifest import (
    MANIFEST_FILE,
    Manifest,
    ModelSpec,
    module_files,
    read_manifest,
)

COMPONENTS = (
    "prompts",
    "graph",
    "tools",
    "policies",
    "memory",
    "retrieval",
    "model",
    "knowledge",
    "code",
)

GATE_FILE = "gate.yaml"

SECTIONS: Mapping[str, tuple[str, ...]] = {
    "prompts": ("prompts",),
    "graph": ("graph",),
    "tools": ("tools",),
    # the workflow bounds what the agent may do: allowed and forbidden tools, escalation, risk;
    # privacy rules bound what it may see
    "policies": ("policies", "workflow", "privacy"),
    "memory": ("memory",),
    "retrieval": ("retrieval",),
    "model": ("model",),
    "knowledge": (),
    "code": ("apiVersion", "name", "description", "owner"),
}
"""Component to the sections of ``agent.yaml`` that feed its digest."""

_CHUNK_BYTES = 1024 * 1024


@dataclass(frozen=True)
class FileDigest:
    """One file of a bundle: `path` in the bundle, `sha256` in hex, `size` in bytes, `component`."""

    path: str
    sha256: str
    size: int
    component: str


@dataclass(frozen=True)
class BundleDigest:
    """What a bundle holds.

    Attributes:
        value: ``sha256:<hex>`` of everything.
        components: ``sha256:<hex>`` per name in `COMPONENTS`.
        files: All files, sorted by path.
    """

    value: str
    components: Mapping[str, str]
    files: tuple[FileDigest, ...]

    def file(self, path: str) -> FileDigest | None:
        """Return the entry of the file at `path`, or None."""
        return self._by_path.get(path)

    @cached_property
    def _by_path(self) -> dict[str, FileDigest]:
        return {entry.path: entry for entry in self.files}

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values, as they stand in an MLmodel file."""
        return {
            "value": self.value,
            "components": dict(self.components),
            "files": [
                {
                    "path": entry.path,
                    "sha256": entry.sha256,
                    "size": entry.size,
                    "component": entry.component,
                }
                for entry in self.files
            ],
        }

    @classmethod
    def from_dict(cls, data: Any) -> BundleDigest:
        """Read what `to_dict` wrote.

        Raises:
            IntegrityError: `data` has another shape, or its value is not that of its files.
        """
        try:
            files = tuple(
                FileDigest(
                    _text(item["path"]),
                    _text(item["sha256"]),
                    _count(item["size"]),
                    _text(item["component"]),
                )
                for item in data["files"]
            )
            components = {_text(name): _text(value) for name, value in data["components"].items()}
            value = _text(data["value"])
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise IntegrityError(
                "the bundle digest is malformed", hint="Log the agent again."
            ) from error
        if set(components) != set(COMPONENTS) or any(
            entry.component not in components for entry in files
        ):
            raise IntegrityError("the bundle digest names other components than this version knows")
        if _value_of(files) != value:
            raise IntegrityError(
                "the bundle digest does not fit its own list of files",
                hint="It was changed after it was written; log the agent again.",
            )
        return cls(value, components, files)


def compute_digest(root: str | Path, manifest: Manifest | None = None) -> BundleDigest:
    """Compute the digest of the bundle at `root`.

    Args:
        root: The bundle's folder.
        manifest: Its manifest, if already read.

    Raises:
        BundleError: The folder is not an acceptable bundle, or its manifest cannot be read.
    """
    folder = Path(root)
    entries = scan(folder)
    if manifest is None:
        manifest = read_manifest(folder)[0]
    return digest_of(entries, manifest)


def digest_of(entries: Mapping[str, FileEntry], manifest: Manifest) -> BundleDigest:
    """Compute the digest of the files `entries` (see `inventory.scan`) under `manifest`.

    Raises:
        BundleError: A file cannot be read, or a section of the manifest cannot be hashed.
    """
    files = tuple(
        FileDigest(
            path,
            *hash_file(entry.location, where=str(entry.location)),
            component=component_of(path, manifest),
        )
        for path, entry in sorted(entries.items())
    )
    sections = manifest.model_dump(mode="json", by_alias=True, exclude_unset=True)
    components = {name: _component_digest(name, files, sections) for name in COMPONENTS}
    return BundleDigest(_value_of(files), components, files)


def hash_file(location: Path, *, where: str) -> tuple[str, int]:
    """Return SHA-256 (hex) and size of a file, read in chunks.

    Raises:
        BundleError: The file is missing, unreadable or not a regular file.
    """
    digest = hashlib.sha256()
    size = 0
    with open_regular(location, where=where) as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
            size += len(chunk)
    return digest.hexdigest(), size


def component_of(path: str, manifest: Manifest) -> str:
    """Return the component the file at `path` belongs to."""
    if path == MANIFEST_FILE:
        return "code"
    if path == GATE_FILE:
        return "policies"
    if _is_module(path, manifest.graph.entry_point):
        return "graph"
    if path in manifest.prompts.values():
        return "prompts"
    tools = manifest.tools
    modules = [tool.entry_point for tool in tools.python]
    if tools.resources is not None:
        modules.append(tools.resources)
    if _below(path, tools.contracts) or any(_is_module(path, module) for module in modules):
        return "tools"
    if _below(path, manifest.policies.path):
        return "policies"
    if any(_below(path, folder) for folder in _model_paths(manifest.model)):
        return "model"
    if manifest.retrieval is not None and _below(path, manifest.retrieval.path):
        return "knowledge"
    return "code"


def is_empty_component(name: str, value: str) -> bool:
    """Say whether `value` is the digest of component `name` without files and sections."""
    return value == _component_digest(name, (), {})


def _below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder + "/")


def _is_module(path: str, entry_point: str) -> bool:
    module, package = module_files(entry_point)
    return path in {module, package} or _below(path, package.removesuffix("/__init__.py"))


def _model_paths(spec: ModelSpec) -> list[str]:
    own = [] if spec.path is None else [spec.path]
    return own + [path for fallback in spec.fallbacks for path in _model_paths(fallback)]


def _value_of(files: tuple[FileDigest, ...]) -> str:
    ordered = sorted(files, key=lambda entry: entry.path)
    return sha256_of_json([_identity(entry) for entry in ordered])


def _identity(entry: FileDigest) -> dict[str, Any]:
    return {"path": entry.path, "sha256": entry.sha256, "size": entry.size}


def _component_digest(
    name: str, files: tuple[FileDigest, ...], manifest_sections: Mapping[str, Any]
) -> str:
    own = [
        _identity(entry)
        for entry in files
        if entry.component == name and entry.path != MANIFEST_FILE
    ]
    sections = {
        section: manifest_sections[section]
        for section in SECTIONS[name]
        if section in manifest_sections
    }
    for section, value in sections.items():
        try:
            canonical_json(value)
        except ValueError as error:
            raise ManifestError(
                str(error), where=f"{MANIFEST_FILE}: {section}", hint="Use plain JSON values."
            ) from error
    return sha256_of_json({"component": name, "files": own, "manifest": sections})


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _count(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise TypeError
    return value
