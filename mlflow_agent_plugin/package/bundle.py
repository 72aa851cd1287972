"""The bundle: an agent's folder, read, checked and bound to its digest.

Rules:
- `load_bundle` runs no code of the bundle. It either returns a bundle whose manifest, contracts,
  prompts and Python files are in order, or raises one error that names file, line and field.
- What is read through a `Bundle` later is what was digested: a file that changed since then is an
  `IntegrityError`, never other content.
- Every tool has a contract of its own name, and every contract has a tool. What a tool of an MCP
  server returns is untrusted unless its contract says otherwise.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from mlflow_agent_plugin.errors import (
    BundleError,
    ContractError,
    IntegrityError,
    KnowledgeError,
    ManifestError,
    PromptError,
)
from mlflow_agent_plugin.package.contract import ToolContract
from mlflow_agent_plugin.package.digest import BundleDigest, FileDigest, digest_of
from mlflow_agent_plugin.package.inventory import FileEntry, open_regular, scan
from mlflow_agent_plugin.package.lint import check_code
from mlflow_agent_plugin.package.manifest import MANIFEST_FILE, Manifest, read_manifest
from mlflow_agent_plugin.package.prompt import Prompt
from mlflow_agent_plugin.package.reading import (
    MAX_TEXT_BYTES,
    YamlDocument,
    decode_text,
    parse_yaml,
    validate_document,
)

_TEXT_SUFFIXES = {".cedar", ".j2", ".jinja", ".json", ".md", ".py", ".txt", ".yaml", ".yml"}
_CHUNK_BYTES = 1024 * 1024


@dataclass(frozen=True)
class Bundle:
    """A checked bundle.

    Attributes:
        root: Its folder, absolute.
        manifest: What ``agent.yaml`` says.
        contracts: Contract of each tool, by tool name, in manifest order.
        prompts: Prompts by name.
        digest: What it holds.
    """

    root: Path
    manifest: Manifest
    contracts: Mapping[str, ToolContract]
    prompts: Mapping[str, Prompt]
    digest: BundleDigest
    locations: Mapping[str, Path] = field(repr=False, compare=False)

    @property
    def name(self) -> str:
        """The agent's name."""
        return self.manifest.name

    def _repr_html_(self) -> str:
        """Show in a notebook what the agent is: goal, model, tools, digest of each component."""
        from mlflow_agent_plugin.package.notebook import bundle_html

        return bundle_html(self)

    def policy_dir(self) -> Path:
        """Return the folder of the policies (it may be missing: then nothing is permitted)."""
        return self.root / self.manifest.policies.path

    def knowledge_dir(self) -> Path | None:
        """Return the folder of the knowledge base, or None if the agent has none."""
        retrieval = self.manifest.retrieval
        return None if retrieval is None else self.root / retrieval.path

    def model_dir(self) -> Path | None:
        """Return the folder of the model's own files, or None if it has none."""
        path = self.manifest.model.path
        return None if path is None else self.root / path

    def files_below(self, folder: str) -> list[str]:
        """Return the paths of all files in `folder` and its subfolders, sorted."""
        return [path for path in self.locations if path.startswith(folder.rstrip("/") + "/")]

    def shown(self, path: str) -> str:
        """Return `path` as error messages call it."""
        return str(self.root / path)

    def read_bytes(self, path: str) -> bytes:
        """Return the content of the file at `path`, checked against the digest.

        Raises:
            BundleError: The bundle has no such file.
            IntegrityError: The file changed after the bundle was loaded.
        """
        entry = self.digest.file(path)
        if entry is None:
            raise BundleError(
                "the bundle has no such file", where=self.shown(path), hint="Check the path."
            )
        return _read_verified(self.locations[path], entry)

    def read_text(self, path: str) -> str:
        """Return the UTF-8 text of the file at `path`; raises as `read_bytes`."""
        return decode_text(self.read_bytes(path), name=self.shown(path))

    def read_yaml(self, path: str, *, error: type[BundleError] = BundleError) -> YamlDocument:
        """Parse the YAML file at `path`; raises as `read_text` and `reading.parse_yaml`."""
        return parse_yaml(self.read_text(path), name=self.shown(path), error=error)


def load_bundle(root: str | Path) -> Bundle:
    """Read and check the bundle at `root`; runs none of its code.

    Raises:
        BundleError: Or one of its kinds (`ManifestError`, `ContractError`, `PromptError`,
            `GraphError`, `KnowledgeError`): what is wrong first, with file, line and field.
    """
    folder = Path(os.path.abspath(root))  # noqa: PTH100 - resolve() would hide how it was named
    entries = scan(folder)
    if MANIFEST_FILE not in entries:
        near = [path for path in entries if path.lower() in {"agent.yml", MANIFEST_FILE}]
        hint = f"Rename {near[0]}." if near else "Write one; see docs/reference/agent-yaml.md."
        raise ManifestError(f"the bundle has no {MANIFEST_FILE}", where=str(folder), hint=hint)
    manifest, document = read_manifest(folder)
    for entry in entries.values():
        _check_text_size(entry, manifest)
    digest = digest_of(entries, manifest)
    bundle = Bundle(
        root=folder,
        manifest=manifest,
        contracts={},
        prompts={},
        digest=digest,
        locations={path: entry.location for path, entry in entries.items()},
    )
    bundle.read_bytes(MANIFEST_FILE)  # what was validated above is what was digested
    checked = Bundle(
        root=folder,
        manifest=manifest,
        contracts=_load_contracts(bundle, document),
        prompts=_load_prompts(bundle, document),
        digest=digest,
        locations=bundle.locations,
    )
    _check_knowledge(checked, document)
    check_code(checked, document)
    return checked


def copy_bundle(bundle: Bundle, destination: str | Path) -> None:
    """Copy exactly the digested files to `destination`, which must be missing or empty.

    Each file is checked against the digest while it is copied; on any error nothing stays behind.

    Raises:
        BundleError: The destination is not empty, lies in the bundle or cannot be written.
        IntegrityError: A file changed after the bundle was loaded.
    """
    target = Path(os.path.abspath(destination))  # noqa: PTH100 - see load_bundle
    if target.is_symlink() or (target.exists() and (not target.is_dir() or any(target.iterdir()))):
        raise BundleError(
            "the destination is not an empty folder",
            where=str(target),
            hint="Give a new or empty folder.",
        )
    if target.resolve().is_relative_to(bundle.root.resolve()):
        raise BundleError(
            "a bundle cannot be copied into itself",
            where=str(target),
            hint="Give a folder outside of it.",
        )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    except OSError as error:
        raise BundleError(f"cannot be written: {error.strerror}", where=str(target)) from error
    try:
        staging.chmod(0o755)
        for entry in bundle.digest.files:
            _copy_verified(bundle.locations[entry.path], staging / PurePosixPath(entry.path), entry)
        if target.exists():
            target.rmdir()
        staging.rename(target)
    except OSError as error:
        raise BundleError(f"cannot be written: {error.strerror}", where=str(target)) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _load_contracts(bundle: Bundle, document: YamlDocument) -> dict[str, ToolContract]:
    tools = bundle.manifest.tools
    names = tools.names()
    places = [("python", at) for at in range(len(tools.python))]
    remote = set(names[len(places) :])
    places += [("mcp", at) for at, server in enumerate(tools.mcp) for _ in server.tools]
    contracts: dict[str, ToolContract] = {}
    for name, place in zip(names, places, strict=True):
        path = f"{tools.contracts}/{name}.yaml"
        if path not in bundle.locations:
            raise ContractError(
                f"tool `{name}` has no contract",
                where=document.where("tools", *place, *(("name",) if name not in remote else ())),
                hint=f"Write {path}; see docs/reference/agent-yaml.md.",
            )
        source = bundle.read_yaml(path, error=ContractError)
        contract = validate_document(source, ToolContract, error=ContractError)
        if contract.name != name:
            raise ContractError(
                f"the contract is named `{contract.name}`, its file {name}.yaml",
                where=source.where("name"),
                hint="Give both the name of the tool.",
            )
        if name in remote and "untrusted_output" not in contract.model_fields_set:
            # Text from elsewhere is trusted only where somebody has written that it is.
            contract = contract.model_copy(update={"untrusted_output": True})
        _check_examples(contract, source)
        contracts[name] = contract
    expected = {f"{tools.contracts}/{name}.yaml" for name in names}
    for path in bundle.files_below(tools.contracts):
        if path.endswith((".yaml", ".yml")) and path not in expected:
            raise ContractError(
                f"this contract belongs to no tool of {MANIFEST_FILE}",
                where=bundle.shown(path),
                hint=f"List the tool under tools, name the file "
                f"{tools.contracts}/<tool>.yaml, or remove it.",
            )
    return contracts


def _check_examples(contract: ToolContract, source: YamlDocument) -> None:
    from jsonschema import Draft202012Validator

    for at, example in enumerate(contract.examples):
        for side in ("input", "output"):
            validator = Draft202012Validator(getattr(contract, side))
            problems = sorted(
                validator.iter_errors(getattr(example, side)), key=lambda found: list(found.path)
            )
            if problems:
                raise ContractError(
                    f"the example does not fit the contract's own {side} schema: "
                    f"{problems[0].message[:200]}",
                    where=source.where("examples", at, side, *problems[0].path),
                    hint="Correct the example or the schema.",
                )


def _load_prompts(bundle: Bundle, document: YamlDocument) -> dict[str, Prompt]:
    prompts: dict[str, Prompt] = {}
    for name, path in bundle.manifest.prompts.items():
        if path not in bundle.locations:
            raise PromptError(
                f"prompt `{name}` has no file {path}",
                where=document.where("prompts", name),
                hint="Write the file or correct the path.",
            )
        shown = bundle.shown(path)
        text = decode_text(bundle.read_bytes(path), name=shown, error=PromptError)
        prompts[name] = Prompt(name, text, path=shown)
    return prompts


def _check_knowledge(bundle: Bundle, document: YamlDocument) -> None:
    retrieval = bundle.manifest.retrieval
    if retrieval is not None and not bundle.files_below(retrieval.path):
        raise KnowledgeError(
            f"the knowledge folder {retrieval.path} is missing or empty",
            where=document.where("retrieval", "path"),
            hint="Add Markdown files to it, or remove the retrieval section.",
        )


def _check_text_size(entry: FileEntry, manifest: Manifest) -> None:
    model = manifest.model.path
    if model is not None and entry.path.startswith(model + "/"):
        return
    if PurePosixPath(entry.path).suffix in _TEXT_SUFFIXES and entry.size > MAX_TEXT_BYTES:
        raise BundleError(
            f"is longer than {MAX_TEXT_BYTES // 1024**2} MB",
            where=str(entry.location),
            hint="Shorten it, or keep data outside the bundle.",
        )


def _changed(location: Path) -> IntegrityError:
    return IntegrityError(
        "the file changed after the bundle was loaded",
        where=str(location),
        hint="Load the bundle again if the change was meant.",
    )


def _read_verified(location: Path, entry: FileDigest) -> bytes:
    with open_regular(location, where=str(location)) as file:
        data = file.read(entry.size + 1)
    if hashlib.sha256(data).hexdigest() != entry.sha256:
        raise _changed(location)
    return data


def _copy_verified(source: Path, target: Path, entry: FileDigest) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    with open_regular(source, where=str(source)) as reader, target.open("xb") as writer:
        while chunk := reader.read(_CHUNK_BYTES):
            digest.update(chunk)
            writer.write(chunk)
    if digest.hexdigest() != entry.sha256:
        raise _changed(source)
