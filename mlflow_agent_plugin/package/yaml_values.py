"""YAML as JSON values with the line of each, by the core schema of YAML 1.2.

See `reading` for the rules this keeps.
"""

from __future__ import annotations

import math
import re
from typing import Any

import yaml

from mlflow_agent_plugin.errors import AgentError

MAX_ALIASED_NODES = 10_000
MAX_DEPTH = 64

Location = tuple[str | int, ...]
"""Path from the top of a document to one of its values."""


_Base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class CoreLoader(_Base):  # type: ignore[misc]
    """Parses; resolves plain scalars by the core schema of YAML 1.2. Source: YAML 1.2.2, 10.3."""

    yaml_implicit_resolvers: dict[str, list[Any]] = {}  # noqa: RUF012 - PyYAML's own convention


for _tag, _pattern, _first in (
    ("null", r"null|Null|NULL|~|", ["n", "N", "~", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
    ("merge", r"<<", ["<"]),
):
    CoreLoader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})\Z"), _first
    )


class NodeReader:
    """Reads the one document of a stream as a node tree, refusing deep nesting as it goes.

    PyYAML's own composer recurses without a bound, in C where libyaml is present: a file of opening
    brackets would end the process.
    """

    def __init__(self, loader: CoreLoader) -> None:
        self._loader = loader
        self._anchors: dict[str, yaml.Node] = {}

    def read(self) -> yaml.Node | None:
        """Return the root node, None for an empty stream.

        Raises:
            yaml.YAMLError: The stream is malformed, holds two documents or nests too deeply.
        """
        self._loader.get_event()  # start of the stream
        if isinstance(self._loader.peek_event(), yaml.StreamEndEvent):
            return None
        self._loader.get_event()  # start of the document
        root = self._node(self._loader.get_event(), 0)
        self._loader.get_event()  # end of the document
        after = self._loader.get_event()
        if not isinstance(after, yaml.StreamEndEvent):
            raise _malformed("a second document starts here", after)
        return root

    def _node(self, event: Any, depth: int) -> yaml.Node:
        if depth > MAX_DEPTH:
            raise _malformed(f"nested deeper than {MAX_DEPTH}", event)
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in self._anchors:
                raise _malformed(f"alias *{event.anchor} has no anchor", event)
            return self._anchors[event.anchor]
        marks: Any = (event.start_mark, event.end_mark)
        if isinstance(event, yaml.ScalarEvent):
            tag = self._tag(yaml.ScalarNode, event, event.value, event.implicit)
            return self._anchored(event, yaml.ScalarNode(tag, event.value, *marks))
        children: list[Any] = []
        node: yaml.Node
        if isinstance(event, yaml.SequenceStartEvent):
            tag = self._tag(yaml.SequenceNode, event, None, event.implicit)
            node = self._anchored(event, yaml.SequenceNode(tag, children, *marks))
            while not isinstance(item := self._loader.get_event(), yaml.SequenceEndEvent):
                children.append(self._node(item, depth + 1))
            return node
        tag = self._tag(yaml.MappingNode, event, None, event.implicit)
        node = self._anchored(event, yaml.MappingNode(tag, children, *marks))
        while not isinstance(item := self._loader.get_event(), yaml.MappingEndEvent):
            key = self._node(item, depth + 1)
            children.append((key, self._node(self._loader.get_event(), depth + 1)))
        return node

    def _tag(self, kind: type[yaml.Node], event: Any, value: Any, implicit: Any) -> str:
        if event.tag is not None and event.tag != "!":
            return str(event.tag)
        return str(self._loader.resolve(kind, value, implicit))

    def _anchored(self, event: Any, node: yaml.Node) -> yaml.Node:
        """Remember `node` under its anchor before its children are read: they may refer to it."""
        if event.anchor is not None:
            self._anchors[event.anchor] = node
        return node


def _malformed(problem: str, event: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)


class ValueBuilder:
    """Turns a node tree into JSON values, noting lines."""

    def __init__(self, name: str, error: type[AgentError]) -> None:
        self.name = name
        self.error = error
        self.lines: dict[Location, int] = {}
        self._seen: set[int] = set()
        self._repeated = 0

    def build(self, node: yaml.Node, location: Location) -> Any:
        """Return the value of `node`, which stands at `location`."""
        line = node.start_mark.line + 1
        self.lines.setdefault(location, line)
        if id(node) in self._seen:
            self._repeated += 1
        self._seen.add(id(node))
        if self._repeated > MAX_ALIASED_NODES:
            raise self._problem(
                line, "aliases repeat too much content", "Write less, or write it out."
            )
        if len(location) > MAX_DEPTH:
            raise self._problem(line, f"is nested deeper than {MAX_DEPTH}", "Flatten it.")
        kind = node.tag.removeprefix("tag:yaml.org,2002:")
        if isinstance(node, yaml.MappingNode) and kind == "map":
            return self._mapping(node, location)
        if isinstance(node, yaml.SequenceNode) and kind == "seq":
            return [self.build(child, (*location, at)) for at, child in enumerate(node.value)]
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, kind, line)
        raise self._unknown_tag(node)

    def _mapping(self, node: yaml.MappingNode, location: Location) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if key_node.tag == "tag:yaml.org,2002:merge":
                raise self._problem(
                    line, "merge keys (<<) are not supported", "Write the fields out."
                )
            if not isinstance(key_node, yaml.ScalarNode):
                raise self._problem(line, "a key must be text", "Put the key in quotes.")
            if key_node.tag != "tag:yaml.org,2002:str":
                raise self._problem(
                    line, f"key {key_node.value!r} is not text", "Put the key in quotes."
                )
            key = key_node.value
            if key in result:
                first = self.lines[(*location, key)]
                raise self._problem(
                    line,
                    f"key `{key}` stands here for the second time (first on line {first})",
                    "Remove one of the two.",
                )
            self.lines[(*location, key)] = line
            result[key] = self.build(value_node, (*location, key))
        return result

    def _scalar(self, node: yaml.ScalarNode, kind: str, line: int) -> Any:
        text: str = node.value
        if kind == "str":
            return text
        if kind == "null":
            return None
        if kind == "bool" and text.lower() in {"true", "false"}:
            return text.lower() == "true"
        try:
            if kind == "int":
                return int(text, 0) if text[:2].lower() in {"0x", "0o"} else int(text)
            if kind == "float":
                number = float(text)
                if math.isfinite(number):
                    return number
                raise ValueError  # noqa: TRY301 - joins the failed conversions below
        except ValueError:
            shown = text if len(text) <= 40 else text[:37] + "..."
            raise self._problem(
                line, f"{shown} is not a number JSON can hold", "Use a finite number, or quotes."
            ) from None
        raise self._unknown_tag(node)

    def _unknown_tag(self, node: yaml.Node) -> AgentError:
        return self._problem(
            node.start_mark.line + 1, f"tag {node.tag!r} is not allowed", "Remove the tag."
        )

    def _problem(self, line: int, text: str, hint: str) -> AgentError:
        return self.error(text, where=f"{self.name}:{line}", hint=hint)
