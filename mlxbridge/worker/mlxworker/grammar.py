"""Answers that must have a form: a grammar becomes a row's logits processor, which lets only fitting tokens through.

The compiler is llguidance. It is imported when the first grammar comes, so that a worker starts no later for it.
Grammars are compiled on a thread with a deep stack, because the compiler recurses as deep as what a client sent.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlx.core as mx

from mlxworker import channels, forced, heap, refusals
from mlxworker.compiled import Holding, Shelf
from mlxworker.constraint import WHITESPACE, Grammar
from mlxworker.errors import INVALID, UNSUPPORTED, RequestError, describe

if TYPE_CHECKING:
    from mlxworker.model import Model
    from mlxworker.protocol import Generate
    from mlxworker.rows import Row

# A chain of references in a schema takes about 12 KiB of stack for each, and there can be 1,400 in 64 KiB of schema.
_STACK_BYTES = 128 << 20
# A state of the lexer takes one to two kilobytes.
_MOST_LEXER_STATES = 50_000
# A property that may come next is four items, and 20,000 of them take the parser a millisecond.
_MOST_ITEMS = 20_000


class Grammars:
    """The grammars of one model, compiled once each. Safe for concurrent use, but for what processor returns."""

    def __init__(self, folder: Path, vocabulary: int, eos: Sequence[int]) -> None:
        self._file = folder / "tokenizer.json"
        self._vocabulary = vocabulary
        self._eos = list(eos)
        self._compiling = threading.Lock()  # also guards _tokenizer
        self._tokenizer: Any = None
        self._special: tuple[str, ...] = ()  # what the tokens are called that no text is made of
        self.shelf = Shelf()

    @property
    def available(self) -> bool:
        """Say whether this build and this model can do it, as far as that can be told without trying."""
        return bool(self._eos) and self._file.is_file() and importlib.util.find_spec("llguidance") is not None

    def is_ready(self, grammar: Grammar) -> bool:
        """Say whether hold returns at once."""
        return self.shelf.find(grammar) is not None

    def hold(self, grammar: Grammar) -> Holding:
        """Return a compiled grammar. Raises RequestError when there can be none."""
        found = self.shelf.find(grammar)
        if found is None:
            with self._compiling:
                found = self.shelf.find(grammar) or _on_deep_stack(lambda: self._compile(grammar))
        return found

    def _compile(self, grammar: Grammar) -> Holding:
        try:
            library = importlib.import_module("llguidance")
        except Exception as e:  # a wheel that does not fit this machine raises whatever it likes
            raise RequestError(
                UNSUPPORTED, f"this worker cannot force the form of an answer: {describe(e)}", grammar.field
            ) from e
        if self._tokenizer is None:
            self._tokenizer = self._load_tokenizer(library, grammar.field)
        try:
            with heap.measured() as growth:
                matcher = self._matcher(library, grammar)
        except Exception as e:
            raise RequestError(INVALID, f"{grammar.field} cannot be used: {refusals.why(str(e))}", grammar.field) from e
        return self.shelf.keep(grammar, matcher, growth.nbytes)

    def _matcher(self, library: Any, grammar: Grammar) -> Any:
        kinds = library.LLMatcher
        if grammar.kind == "regex":
            source = kinds.grammar_from_regex(grammar.value)
        elif grammar.kind == "lark":
            source = kinds.grammar_from_lark(grammar.value)
        else:
            options = {"whitespace_pattern": WHITESPACE}
            source = kinds.grammar_from_json_schema(grammar.value or '{"type": "object"}', options)
        if any(name in grammar.value for name in self._special):
            source = _unforced(source)
        limits = library.LLParserLimits(
            max_items_in_row=_MOST_ITEMS, max_lexer_states=_MOST_LEXER_STATES, verbose_errors=False
        )
        matcher = kinds(self._tokenizer, source, log_level=0, limits=limits)
        if not matcher.is_error():
            matcher.compute_bitmask()  # some limits are found only here
        if matcher.is_error():
            raise ValueError(matcher.get_error())
        return matcher

    def _load_tokenizer(self, library: Any, field: str) -> Any:
        """Return the model's tokens as the compiler wants them; there may be fewer logits than tokens, or more."""
        claim = "this model's answers cannot be forced into a form: "
        if not self._eos:
            raise RequestError(UNSUPPORTED, claim + "it has no token that ends an answer", field)
        try:
            text = self._file.read_text(encoding="utf-8")
            added = json.loads(text).get("added_tokens") or ()
            self._special = tuple(t["content"] for t in added if t.get("special") and t["content"])
            try:
                return library.LLTokenizer(text, self._vocabulary, self._eos)
            except ValueError:  # it has more tokens than there are logits: then by its own number
                return library.LLTokenizer(text, None, self._eos)
        except Exception as e:  # no such file, or one that the library cannot read
            raise RequestError(UNSUPPORTED, claim + describe(e), field) from e


@dataclass(frozen=True)
class Thinking:
    """How a row's thoughts, which no grammar binds, stand apart from its answer.

    is_open says that the prompt began them; may_open that the model may, with its first token.
    """

    is_open: bool = False
    may_open: bool = False
    start: tuple[int, ...] = ()
    end: tuple[int, ...] = ()


class Constrained:
    """The processor of one row. What it has seen is compared with what the generator says: a row may start again."""

    def __init__(
        self,
        holding: Holding,
        prompt_tokens: int,
        eos: Sequence[int],
        thinking: Thinking | None = None,
    ) -> None:
        self._holding = holding
        self._field = holding.form.grammar.field
        self._prompt = prompt_tokens
        self._eos = frozenset(eos)
        self._thinking = thinking or Thinking()
        self._numpy = importlib.import_module("numpy")
        self._restart()

    def __call__(self, tokens: Any, logits: Any) -> Any:
        """Return the logits with what does not fit at minus infinity. Raises RequestError where nothing fits."""
        new = tokens.shape[0] - self._prompt
        if new == len(self._seen) + 1:
            self._feed(int(tokens[-1].item()))
        else:
            self.follow(tokens[self._prompt :].tolist())
        if self._thoughts or self._ended:
            return logits
        numpy, width = self._numpy, logits.shape[-1]
        with self._holding.counted():
            mask = self._matcher.compute_bitmask()
        bits = numpy.frombuffer(mask, numpy.uint8)
        allowed = numpy.unpackbits(bits, count=width, bitorder="little").astype(bool)
        if self._thinking.may_open and not self._seen:
            allowed[self._thinking.start[0]] = True
        if self._matcher.is_error() or not allowed.any():
            self._holding.spoilt()
            why = refusals.why(self._matcher.get_error()) or "no token fits"
            raise RequestError(INVALID, f"{self._field} cannot be followed any further: {why}", self._field)
        return mx.where(mx.array(allowed), logits, -mx.inf)

    def follow(self, answer: list[int]) -> None:
        """Take over an answer so far. Raises RequestError for one that the grammar does not allow."""
        if answer == self._seen:
            return
        self._restart()
        for token in answer:
            self._feed(token)

    def _restart(self) -> None:
        self._matcher = self._holding.start()
        self._seen: list[int] = []
        self._thoughts = self._thinking.is_open
        self._ended = False

    def _feed(self, token: int) -> None:
        self._seen.append(token)
        if self._thoughts:
            end = self._thinking.end
            self._thoughts = tuple(self._seen[-len(end) :]) != end
            return
        if self._thinking.may_open and len(self._seen) == 1 and token == self._thinking.start[0]:
            self._thoughts = True
            return
        # The generator computes one token more before it notices an end.
        self._ended = self._ended or token in self._eos
        if self._ended:
            return
        with self._holding.counted():
            fits = self._matcher.consume_token(token)
        if not fits:
            why = refusals.why(self._matcher.get_error())
            raise RequestError(INVALID, f"a token does not go with {self._field}: {why}", self._field)


def demanded(model: Model, ask: Generate) -> Grammar | None:
    """Return the grammar that a request's answer must follow. Raises RequestError for two that exclude each other."""
    choice = ask.tool_choice
    if choice in ("auto", "none"):
        return ask.grammar
    if ask.grammar is not None:
        raise RequestError(INVALID, "grammar and a forced tool call exclude each other", "tool_choice")
    name = str(choice["name"]) if isinstance(choice, dict) else None
    return forced.grammar(model.tokenizer, ask.tools, name)


def is_slow(model: Model, ask: Generate) -> bool:
    """Say whether a grammar has to be compiled first, which would be felt by those who wait for their next token."""
    grammar = demanded(model, ask)
    return grammar is not None and not model.grammars.is_ready(grammar)


def prepare(model: Model, ask: Generate) -> Holding | None:
    """Return the form of a request, on any thread; None where it is free. Raises RequestError for none."""
    grammar = demanded(model, ask)
    return model.grammars.hold(grammar) if grammar is not None else None


def processor(model: Model, ask: Generate, row: Row) -> Constrained | None:
    """Return what keeps a row to its grammar, None where it is free. Raises RequestError."""
    grammar = demanded(model, ask)
    if grammar is None:
        return None
    holding = ask.form if ask.form is not None else model.grammars.hold(grammar)
    thinking = _thinking(model, ask, row.prompt)
    made = Constrained(holding, len(row.prompt), model.eos, thinking)
    try:
        made.follow(row.tokens)
    except RequestError as e:
        raise RequestError(INVALID, f"continue is not what was asked for: {describe(e)}", "continue") from e
    return made


def _thinking(model: Model, ask: Generate, prompt: list[int]) -> Thinking:
    if model.channels.think is None:
        return Thinking()
    is_open, is_closed = channels.reasoning_at_end(model.channels, prompt, model.words)
    start, end = tuple(model.tokenizer.think_start_tokens), tuple(model.tokenizer.think_end_tokens)
    return Thinking(is_open, ask.is_chat and not is_open and not is_closed, start, end)


def _unforced(source: str) -> str:
    """Return a grammar of the compiler's so that the model, not its tokenizer, spells what can be said in one way only.

    The tokenizer takes the name of a special token in a text for that token, which the text of a form never holds.
    """
    made = json.loads(source) if source.lstrip().startswith("{") else {"grammars": [{"lark_grammar": source}]}
    made["grammars"][0]["name"] = "form"
    made["grammars"].insert(0, {"lark_grammar": '%llguidance {"no_forcing": true}\nstart: @form'})
    return json.dumps(made)


def _on_deep_stack(work: Callable[[], Any]) -> Any:
    """Run on a thread of its own whose stack no grammar of the permitted size exhausts; return what it returns."""
    result: list[Any] = []
    raised: list[Exception] = []

    def run() -> None:
        try:
            result.append(work())
        except Exception as e:
            raised.append(e)

    before = threading.stack_size(_STACK_BYTES)
    try:
        thread = threading.Thread(target=run, name="grammar", daemon=True)
        thread.start()
    finally:
        threading.stack_size(before)
    thread.join()
    if raised:
        raise raised[0]
    return result[0]
