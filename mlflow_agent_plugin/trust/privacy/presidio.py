"""Further entity types by Microsoft Presidio: national identifiers by pattern, names by a model.

Rules:
- Nothing is downloaded. Without a spaCy model an empty English pipeline splits the words, and only
  recognizers with patterns and checksums work; a type none of them finds is refused when the
  agent opens, not silently missed.
- Only recognizers of the wanted types are loaded.
- Presidio skips a pattern that takes too long and says so in its log; here that is an error, so
  that no text passes half searched.
- Loading takes seconds, so it happens once, when an agent that asks for it opens.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Any

from mlflow_agent_plugin.entities.sensitive import Finding
from mlflow_agent_plugin.errors import ConfigError

if TYPE_CHECKING:
    from mlflow_agent_plugin.package.manifest import PresidioSpec

_LANGUAGE = "en"


class PresidioFinder:
    """Finds the entity types of a manifest.

    Args:
        spec: ``privacy.presidio`` of the manifest.

    Raises:
        ConfigError: Presidio or the model is not installed, or cannot find one of the types.
    """

    def __init__(self, spec: PresidioSpec) -> None:
        self._min_score = spec.min_score
        self._engine = _open_engine(spec)
        self._watch = _SkipWatch()
        logging.getLogger("presidio-analyzer").addFilter(self._watch)

    def find(self, text: str, entities: frozenset[str]) -> list[Finding]:
        """Return the findings of `entities` in `text`, sorted and disjoint.

        Raises:
            TimeoutError: A part of the search was skipped.
        """
        self._watch.skipped.found = False
        results = self._engine.analyze(
            text, language=_LANGUAGE, entities=sorted(entities), score_threshold=self._min_score
        )
        if self._watch.skipped.found:
            raise TimeoutError("the search for personal data took too long")
        found: list[Finding] = []
        for result in sorted(results, key=lambda result: (result.start, -result.end)):
            if not found or result.start >= found[-1].end:
                found.append(Finding(result.entity_type, result.start, result.end))
        return found


class _SkipWatch(logging.Filter):
    """Notices in Presidio's log that a pattern was skipped in this thread."""

    def __init__(self) -> None:
        super().__init__()
        self.skipped = threading.local()

    def filter(self, record: logging.LogRecord) -> bool:
        """Note a skipped pattern; drop messages that repeat the text they failed on."""
        if "timed out" in record.msg:
            self.skipped.found = True
        return not str(record.msg).startswith("Failed to validate text")


def _open_engine(spec: PresidioSpec) -> Any:
    try:
        import spacy
        from presidio_analyzer import AnalyzerEngine, RecognizerRegistry
        from presidio_analyzer.nlp_engine import NlpEngineProvider, SpacyNlpEngine
        from presidio_analyzer.predefined_recognizers import SpacyRecognizer
    except ImportError as missing:
        raise ConfigError(
            "Presidio is not installed",
            where="privacy.presidio",
            hint="Install mlflow-agent-plugin[presidio].",
        ) from missing
    registry = RecognizerRegistry(supported_languages=[_LANGUAGE])
    registry.load_predefined_recognizers(languages=[_LANGUAGE])
    wanted = set(spec.entities)
    registry.recognizers = [
        recognizer
        for recognizer in registry.recognizers
        if wanted & set(recognizer.supported_entities)
        and not isinstance(recognizer, SpacyRecognizer)
    ]
    if spec.model is None:

        class BlankEngine(SpacyNlpEngine):  # type: ignore[misc]
            """Splits words and nothing else; the base class would download a model."""

            def load(self) -> None:
                self.nlp = {_LANGUAGE: spacy.blank(_LANGUAGE)}

        engine: Any = BlankEngine(models=[{"lang_code": _LANGUAGE, "model_name": "blank"}])
        engine.load()
    else:
        if not spacy.util.is_package(spec.model):
            raise ConfigError(
                f"the spaCy model {spec.model!r} is not installed",
                where="privacy.presidio.model",
                hint="Install it where the agent runs; it is never downloaded by itself.",
            )
        engine = NlpEngineProvider(
            nlp_configuration={
                "nlp_engine_name": "spacy",
                "models": [{"lang_code": _LANGUAGE, "model_name": spec.model}],
            }
        ).create_engine()
        registry.add_recognizer(SpacyRecognizer(supported_language=_LANGUAGE))
    found = {kind for recognizer in registry.recognizers for kind in recognizer.supported_entities}
    missing_types = sorted(wanted - found)
    if missing_types:
        raise ConfigError(
            f"Presidio cannot find {', '.join(missing_types)} here",
            where="privacy.presidio.entities",
            hint="Names and places need privacy.presidio.model; other types: see Presidio's list.",
        )
    return AnalyzerEngine(registry=registry, nlp_engine=engine, supported_languages=[_LANGUAGE])
