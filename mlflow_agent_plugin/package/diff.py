"""What changed between two bundles, for a reviewer and for the gate."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from mlflow_agent_plugin.package.bundle import Bundle, load_bundle
from mlflow_agent_plugin.package.compatibility import ContractChange, ContractStatus, compare_all
from mlflow_agent_plugin.package.digest import COMPONENTS, FileDigest, is_empty_component
from mlflow_agent_plugin.package.textdiff import (
    MAX_BYTES_COMPARED,
    decode,
    unified,
    visible,
)


class ChangeKind(str, Enum):
    """What became of a component or a file."""

    SAME = "same"
    ADDED = "added"
    REMOVED = "removed"
    CHANGED = "changed"
    RENAMED = "renamed"


@dataclass(frozen=True)
class FileChange:
    """What became of one file.

    Attributes:
        path: Where it is now; where it was if it was removed.
        kind: added, removed, changed or renamed (same content at another path).
        component: The component it belongs to.
        text: Unified diff, empty if there is none to show.
        note: Why there is no diff or only part of it.
        old_path: Where a renamed file was.
    """

    path: str
    kind: ChangeKind
    component: str
    text: str = ""
    note: str | None = None
    old_path: str | None = None

    @property
    def title(self) -> str:
        """The change in one line, safe to print."""
        moved = f"{visible(self.old_path)} -> " if self.old_path else ""
        note = f" ({self.note})" if self.note else ""
        return f"{self.kind.value} {moved}{visible(self.path)} [{self.component}]{note}"

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "path": self.path,
            "kind": self.kind.value,
            "component": self.component,
            "text": self.text,
            "note": self.note,
            "old_path": self.old_path,
        }


@dataclass(frozen=True)
class BundleDiff:
    """The difference of two bundles.

    Attributes:
        old_name: Name of the older agent.
        new_name: Name of the newer agent.
        old_digest: Digest of the older bundle.
        new_digest: Digest of the newer bundle.
        components: What became of each component.
        files: Every file that is not the same, sorted by path.
        contracts: What became of each tool's contract.
    """

    old_name: str
    new_name: str
    old_digest: str
    new_digest: str
    components: Mapping[str, ChangeKind]
    files: tuple[FileChange, ...]
    contracts: Mapping[str, ContractChange]

    @property
    def same(self) -> bool:
        """Whether both bundles hold exactly the same."""
        return self.old_digest == self.new_digest

    @property
    def changed_components(self) -> list[str]:
        """Names of the components that differ."""
        return [name for name, kind in self.components.items() if kind is not ChangeKind.SAME]

    @property
    def needs_major(self) -> list[str]:
        """Tools whose contract broke its promises without a new major version."""
        return [tool for tool, change in self.contracts.items() if change.needs_major]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "old": {"name": self.old_name, "digest": self.old_digest},
            "new": {"name": self.new_name, "digest": self.new_digest},
            "components": {name: kind.value for name, kind in self.components.items()},
            "files": [change.to_dict() for change in self.files],
            "contracts": {tool: change.to_dict() for tool, change in self.contracts.items()},
            "needs_major": self.needs_major,
        }

    def to_text(self) -> str:
        """Return the difference as plain text."""
        lines = [
            f"old  {self.old_name}  {self.old_digest}",
            f"new  {self.new_name}  {self.new_digest}",
        ]
        if self.same:
            return "\n".join([*lines, "", "The bundles are the same."])
        lines += ["", "Components"]
        lines += [f"  {name:<10} {kind.value}" for name, kind in self.components.items()]
        if self.contracts:
            lines += ["", "Tool contracts"]
            for contract in self.contracts.values():
                lines.append(f"  {contract.tool}: {_summary(contract)}")
                lines += [f"    - {visible(reason)}" for reason in contract.reasons]
                lines += [f"    . {visible(note)}" for note in contract.notes]
        lines += ["", "Files"]
        lines += [f"  {change.title}" for change in self.files]
        for change in self.files:
            if change.text:
                lines += ["", change.text]
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.to_text()

    def _repr_html_(self) -> str:
        """Show the difference in a notebook."""
        old, new = html.escape(self.old_digest[:19]), html.escape(self.new_digest[:19])
        parts = [f"<p><code>{old}</code> → <code>{new}</code></p>"]
        if self.same:
            return parts[0] + "<p>The bundles are the same.</p>"
        rows = [(name, kind.value) for name, kind in self.components.items()]
        parts.append(_table(("component", "change"), rows))
        if self.contracts:
            parts.append(
                _table(
                    ("tool", "contract", "why"),
                    [
                        (tool, _summary(change), "; ".join((*change.reasons, *change.notes)))
                        for tool, change in self.contracts.items()
                    ],
                )
            )
        for change in self.files:
            title, body = html.escape(change.title), html.escape(change.text)
            parts.append(
                f"<details><summary>{title}</summary><pre>{body}</pre></details>"
                if body
                else f"<p>{title}</p>"
            )
        return "\n".join(parts)


def diff(a: Bundle | str | Path, b: Bundle | str | Path) -> BundleDiff:
    """Say what changed from bundle `a` to bundle `b`.

    Args:
        a: The older bundle, or its folder.
        b: The newer bundle, or its folder.

    Raises:
        BundleError: A folder is no valid bundle.
        IntegrityError: A file changed after its bundle was loaded.
    """
    old = a if isinstance(a, Bundle) else load_bundle(a)
    new = b if isinstance(b, Bundle) else load_bundle(b)
    return BundleDiff(
        old_name=old.name,
        new_name=new.name,
        old_digest=old.digest.value,
        new_digest=new.digest.value,
        components={name: _component_change(name, old, new) for name in COMPONENTS},
        files=tuple(_file_changes(old, new)),
        contracts=compare_all(old.contracts, new.contracts),
    )


def _component_change(name: str, old: Bundle, new: Bundle) -> ChangeKind:
    before, after = old.digest.components[name], new.digest.components[name]
    if before == after:
        return ChangeKind.SAME
    if is_empty_component(name, before):
        return ChangeKind.ADDED
    if is_empty_component(name, after):
        return ChangeKind.REMOVED
    return ChangeKind.CHANGED


def _file_changes(old: Bundle, new: Bundle) -> list[FileChange]:
    before = {entry.path: entry for entry in old.digest.files}
    after = {entry.path: entry for entry in new.digest.files}
    gone: dict[str, list[FileDigest]] = {}
    for path in before.keys() - after.keys():
        gone.setdefault(before[path].sha256, []).append(before[path])
    changes = []
    for path in sorted(after):
        entry = after[path]
        if path not in before:
            twins = sorted(gone.get(entry.sha256, []), key=lambda twin: twin.path)
            if twins:
                gone[entry.sha256].remove(twins[0])
                changes.append(
                    FileChange(path, ChangeKind.RENAMED, entry.component, old_path=twins[0].path)
                )
            else:
                changes.append(_change(ChangeKind.ADDED, None, entry, old, new))
        elif before[path].sha256 != entry.sha256:
            changes.append(_change(ChangeKind.CHANGED, before[path], entry, old, new))
        elif before[path].component != entry.component:
            changes.append(
                FileChange(
                    path,
                    ChangeKind.CHANGED,
                    entry.component,
                    note=f"same content, was part of {before[path].component}",
                )
            )
    for entries in gone.values():
        changes += [_change(ChangeKind.REMOVED, entry, None, old, new) for entry in entries]
    return sorted(changes, key=lambda change: change.path)


def _change(
    kind: ChangeKind,
    before: FileDigest | None,
    after: FileDigest | None,
    old: Bundle,
    new: Bundle,
) -> FileChange:
    entry = after or before
    if entry is None:  # pragma: no cover - one of the two is always given
        raise ValueError("a change needs a file")
    sizes = " -> ".join(f"{side.size:,} bytes" for side in (before, after) if side is not None)
    if max(side.size for side in (before, after) if side is not None) > MAX_BYTES_COMPARED:
        return FileChange(entry.path, kind, entry.component, note=f"too long to compare; {sizes}")
    texts = [
        "" if side is None else decode(bundle.read_bytes(side.path))
        for side, bundle in ((before, old), (after, new))
    ]
    if texts[0] is None or texts[1] is None:
        hashes = " -> ".join(side.sha256[:12] for side in (before, after) if side is not None)
        return FileChange(
            entry.path, kind, entry.component, note=f"binary; {sizes}; sha256 {hashes}"
        )
    names = [
        "/dev/null" if side is None else f"{label}/{side.path}"
        for side, label in ((before, "a"), (after, "b"))
    ]
    text, note = unified(texts[0], texts[1], old_name=names[0], new_name=names[1])
    return FileChange(entry.path, kind, entry.component, text=text, note=note)


def _summary(change: ContractChange) -> str:
    text = change.status.value
    if change.status in {ContractStatus.COMPATIBLE, ContractStatus.BREAKING}:
        text += f", {change.old_version} -> {change.new_version}"
    return text + (", needs a new major version" if change.needs_major else "")


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    def line(cells: tuple[str, ...], tag: str) -> str:
        return "".join(f"<{tag}>{html.escape(visible(cell))}</{tag}>" for cell in cells)

    body = "".join(f"<tr>{line(row, 'td')}</tr>" for row in rows)
    return f"<table><thead><tr>{line(head, 'th')}</tr></thead><tbody>{body}</tbody></table>"
