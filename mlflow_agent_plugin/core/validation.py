"""Everything that can be wrong with a bundle, checked before it is logged.

Rules:
- What needs no code of the bundle comes first: formats, prompts, contracts, policies and their
  tests. Only then the graph is built, in memory, without opening the agent's world.
- The first problem is raised; it names file and field.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow_agent_plugin.core.assembly import build_graph, load_functions, load_knowledge
from mlflow_agent_plugin.core.drawing import draw_graph
from mlflow_agent_plugin.errors import ContractError, UngovernedToolCallError
from mlflow_agent_plugin.package import import_entry_point, load_bundle
from mlflow_agent_plugin.trust import check_policies

if TYPE_CHECKING:
    from mlflow_agent_plugin.package import Bundle


def validate(path: str | Path) -> Bundle:
    """Return the bundle at `path` if everything about it is in order.

    Raises:
        BundleError: Or one of its kinds: what is wrong, where, and what to do.
    """
    return validate_and_draw(path)[0]


def validate_and_draw(path: str | Path) -> tuple[Bundle, str]:
    """Return the bundle at `path` and the drawing of its graph; raises as `validate`."""
    bundle = load_bundle(path)
    _check_examples(bundle)
    check_policies(bundle)
    knowledge = load_knowledge(bundle)
    load_functions(bundle)
    if bundle.manifest.tools.resources is not None:
        import_entry_point(bundle, bundle.manifest.tools.resources)
    from langgraph.checkpoint.memory import InMemorySaver

    graph = build_graph(
        bundle,
        govern=_no_calls,
        knowledge=knowledge,
        checkpointer=InMemorySaver(),
        checking=True,
    )
    return bundle, draw_graph(graph)


def _no_calls(_request: Any) -> Any:
    raise UngovernedToolCallError(
        "the graph called a tool while it was being built",
        hint="build(context) assembles the graph; it does not run it.",
    )


def _check_examples(bundle: Bundle) -> None:
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import best_match

    for name, contract in bundle.contracts.items():
        for index, example in enumerate(contract.examples):
            for side in ("input", "output"):
                validator = Draft202012Validator(getattr(contract, side))
                error = best_match(validator.iter_errors(getattr(example, side)))
                if error is not None:
                    raise ContractError(
                        f"the example does not fit the contract's own {side}: {error.message}",
                        where=f"{name}: examples[{index}].{side}",
                        hint="Correct the example or the schema.",
                    )
