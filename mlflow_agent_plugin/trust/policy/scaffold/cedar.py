"""The pack's rules as Cedar policies."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from mlflow_agent_plugin.trust.policy.scaffold.rules import (
    HIGH_RISK,
    NAMED_BY_NOBODY,
    NAMED_BY_STRANGERS,
    NOBODY_ANSWERS,
    WORDS_OF_STRANGERS,
    ToolRules,
)

_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_KEYWORDS = frozenset(
    "true false if then else in is like has principal action resource context".split()  # noqa: SIM905
)


def permits(rules: Sequence[ToolRules]) -> Iterator[str]:
    """Yield the lines of ``permit.cedar``."""
    yield "// Who may use which tool at all. What no policy here permits is denied."
    yield '// Written from the tool contracts; add `principal in Agent::Role::"…"` to narrow it.'
    yield '// @unverified("allow") lets in people whose sign-in nobody checked: right for a'
    yield "// notebook, to be taken out where users sign in."
    for permit in dict.fromkeys(rule.permit for rule in rules):
        names = [_action(rule) for rule in rules if rule.permit == permit]
        listed = "".join(f"\n  {name}," for name in names).rstrip(",")
        yield f'\n@id("{permit}")\n@unverified("allow")'
        yield f"permit (principal, action in [{listed}\n], resource);"
    yield ""


def hard(rules: Sequence[ToolRules]) -> Iterator[str]:
    """Yield the lines of ``hard.cedar``."""
    yield "// What never happens, whoever asks and whoever approves. Put your own rules here too."
    for rule in rules:
        if rule.guarded:
            tests = _either(_is(rule, name, "untrusted") for name in rule.targets)
            yield _forbid(
                rule,
                NOBODY_ANSWERS,
                "who asks is not verified, and only third parties' text names the target",
                f"!context.session.verified && {tests}",
            )
    yield ""


def approvals(rules: Sequence[ToolRules], role: str) -> Iterator[str]:
    """Yield the lines of ``approval.cedar``."""
    yield "// What a person has to agree to first."
    for rule in rules:
        if rule.always_asked:
            yield _forbid(rule, HIGH_RISK, "its contract says that the risk is high", None, role)
        if rule.targets:
            yield _forbid(
                rule,
                NAMED_BY_STRANGERS,
                "only third parties' text names the target",
                _either(_is(rule, name, "untrusted") for name in rule.targets),
                role,
            )
            made_up = _either(_is(rule, name, "model") for name in rule.targets)
            yield _forbid(
                rule,
                NAMED_BY_NOBODY,
                "after third parties' text, neither the user nor a trusted tool names the target",
                f"context.session.untrusted_seen && {made_up}",
                role,
            )
        if rule.contents:
            theirs = _either(_is(rule, name, "untrusted") for name in rule.contents)
            others = _not_the_users(rule)
            yield _forbid(
                rule,
                WORDS_OF_STRANGERS,
                "it passes on third parties' text to a target that the user did not name",
                theirs + (f" &&\n  {others}" if others else ""),
                role,
            )
    yield ""


def _not_the_users(rule: ToolRules) -> str | None:
    """Return the condition that the user did not name every target, None if there are none."""
    if not rule.targets:
        return None
    tests = [_is(rule, name, "user", relation="!=") for name in rule.targets]
    if not rule.required.intersection(rule.targets):
        absent = " && ".join(f"!({_has(name)})" for name in rule.targets)
        tests.append(f"({absent})" if len(rule.targets) > 1 else absent)
    return _either(tests)


def _either(tests: Iterable[str]) -> str:
    found = list(tests)
    return found[0] if len(found) == 1 else "(" + " ||\n   ".join(found) + ")"


def _forbid(
    rule: ToolRules, ending: str, reason: str, when: str | None, role: str | None = None
) -> str:
    lines = ["", f'@id("{rule.policy(ending)}")']
    if role is not None:
        lines.append(f"@approval({_quoted(role)})")
    lines.append(f'@reason("{reason}")')
    lines.append(f"forbid (principal, action == {_action(rule)}, resource)")
    if when is not None:
        lines.append(f"when {{\n  {when}\n}}")
    if role is not None:
        lines.append("unless { context.session.approved }")
    return "\n".join(lines) + ";"


def _is(rule: ToolRules, name: str, origin: str, *, relation: str = "==") -> str:
    test = f'{_at(name)} {relation} "{origin}"'
    return test if name in rule.required else f"({_has(name)} && {test})"


def _at(name: str) -> str:
    return f"context.provenance.{name}" if _plain(name) else f"context.provenance[{_quoted(name)}]"


def _has(name: str) -> str:
    return f"context.provenance has {name if _plain(name) else _quoted(name)}"


def _plain(name: str) -> bool:
    return bool(_IDENTIFIER.fullmatch(name)) and name not in _KEYWORDS


def _action(rule: ToolRules) -> str:
    return f'Agent::Action::"{rule.contract.name}"'


def _quoted(text: str) -> str:
    """Return a Cedar string literal; JSON spells some characters in a way Cedar does not read."""
    escaped = "".join(
        char if char.isprintable() and char not in '"\\' else f"\\u{{{ord(char):x}}}"
        for char in text
    )
    return f'"{escaped}"'
