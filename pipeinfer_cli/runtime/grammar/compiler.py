"""Grammars ready for requests: checked by llguidance, with errors that name their place."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator
from functools import cached_property
from typing import Any

from pipeinfer_cli.engine.vocab import Vocab
from pipeinfer_cli.errors import UserError
from pipeinfer_cli.runtime.grammar.matcher import Grammar, GrammarState
from pipeinfer_cli.runtime.grammar.source import GrammarSource
from pipeinfer_cli.runtime.grammar.tokenizer import llguidance, make_tokenizer

N_KEPT = 32  # grammars of earlier requests
N_TOKENIZERS_KEPT = 4  # for earlier requests' ends
N_SUBSCHEMAS_MAX = 500  # of a schema that is wrong, looked at for the place
# As llama.cpp has it: a model that likes line ends could repeat them for ever.
JSON_OPTIONS = {"whitespace_pattern": r"( |\n{1,2}[ \t]{0,20})?"}
PLACE = re.compile(r"^(?:at )?(\d+)\((\d+)\): ")  # line and column
PICTURE = re.compile(r"^\s*(\d+ \||\^)")  # a line of the grammar, and a mark under it
DEFINITIONS = ("$defs", "definitions")


class GrammarCompiler:
    """Makes grammars for requests, with the vocabulary of their model."""

    def __init__(self, vocab: Vocab) -> None:
        self._vocab = vocab
        self._tokenizers: dict[frozenset[int], Any] = {}  # by the tokens that end a text
        self._matchers: dict[tuple[GrammarSource, frozenset[int]], Any] = {}

    def start(self, source: GrammarSource, stop_tokens: Collection[int] = ()) -> GrammarState:
        """What a request's text may begin with. UserError, in one line, if the grammar is wrong.

        When the grammar is through, the model's end-of-generation tokens may follow, or control
        tokens among `stop_tokens`: other ones have a text, and the grammar decides.
        """
        ends = self._ends(stop_tokens)
        if not ends:
            raise UserError(
                f"{source.name}: the model lacks an end-of-generation token: give one with "
                "--stop-token"
            )
        key = source, ends
        if key not in self._matchers:
            matcher = self._compiled(source, self._tokenizer(ends))
            while len(self._matchers) >= N_KEPT:
                del self._matchers[next(iter(self._matchers))]
            self._matchers[key] = matcher
        own = self._matchers[key].deep_copy()
        return Grammar(own, ends=ends, n_vocab=self._vocab.n_tokens).start

    def prepare(self, stop_tokens: Collection[int] = ()) -> None:
        """Does what the first of such grammars would wait for. UserError without llguidance."""
        if ends := self._ends(stop_tokens):
            self._tokenizer(ends)

    def _ends(self, stop_tokens: Collection[int]) -> frozenset[int]:
        return self._model_ends | {each for each in stop_tokens if not self._vocab.piece(each)}

    @cached_property
    def _model_ends(self) -> frozenset[int]:
        tokens = range(self._vocab.n_tokens)
        return frozenset(token for token in tokens if self._vocab.ends_generation(token))

    def _tokenizer(self, ends: frozenset[int]) -> Any:
        if ends not in self._tokenizers:
            while len(self._tokenizers) >= N_TOKENIZERS_KEPT:
                del self._tokenizers[next(iter(self._tokenizers))]
            self._tokenizers[ends] = make_tokenizer(self._vocab, ends)
        return self._tokenizers[ends]

    def _compiled(self, source: GrammarSource, tokenizer: Any) -> Any:
        package = llguidance()
        limits = package.LLParserLimits(verbose_errors=False)
        grammar = in_llguidance(source)
        matcher = package.LLMatcher(tokenizer, grammar, log_level=0, limits=limits)
        if not matcher.is_error():
            return matcher
        error = str(matcher.get_error())
        place = _place_in_schema(source.text, error) if source.form == "json_schema" else ""
        raise UserError(f"{source.name}: {place}{in_one_line(error)}")


def in_llguidance(source: GrammarSource) -> str:
    """The grammar as llguidance reads it. UserError if it cannot be translated."""
    matcher = llguidance().LLMatcher
    if source.form == "json_schema" and source.text == "false":
        raise UserError(f"{source.name} false: it allows nothing: give another schema")
    if source.form == "json_schema":
        return str(matcher.grammar_from_json_schema(source.text, defaults=JSON_OPTIONS))
    text = source.text
    if source.form == "gbnf":
        from llguidance.gbnf_to_lark import gbnf_to_lark

        try:
            text = gbnf_to_lark(text)
        except Exception as error:  # noqa: BLE001 (its own, and whatever a text leads it to)
            raise UserError(f"{source.name}: {in_one_line(str(error))}") from None
    return str(matcher.grammar_from_lark(text))


def in_one_line(error: str) -> str:
    """An error of llguidance with its place in words, without the picture of it."""
    lines = [line.strip() for line in error.splitlines() if not PICTURE.match(line)]
    text = " ".join(filter(None, lines))
    return PLACE.sub(lambda found: f"line {found[1]}, column {found[2]}: ", text)


def _place_in_schema(text: str, error: str) -> str:
    """Where the part of a schema is that is wrong by itself: a JSON pointer; empty if unknown."""
    schema = json.loads(text)
    if not isinstance(schema, dict):
        return ""
    shared = {key: schema[key] for key in DEFINITIONS if key in schema}
    found = ""
    parts = _objects(schema, "#")
    for _, (pointer, part) in zip(range(N_SUBSCHEMAS_MAX), parts, strict=False):
        if len(pointer) > len(found) and _error_of({**shared, **part}) == error:
            found = pointer
    return f"{found}: " if len(found) > 1 else ""


def _error_of(schema: dict[str, Any]) -> str:
    matcher = llguidance().LLMatcher
    source = GrammarSource.of_schema(schema)
    return str(matcher.validate_grammar(in_llguidance(source)))


def _objects(value: Any, pointer: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """All objects in a JSON value, with their pointers."""
    if isinstance(value, dict):
        yield pointer, value
        for name, each in value.items():
            escaped = name.replace("~", "~0").replace("/", "~1")
            yield from _objects(each, f"{pointer}/{escaped}")
    elif isinstance(value, list):
        for index, each in enumerate(value):
            yield from _objects(each, f"{pointer}/{index}")
