"""A tokenizer made from tokenizer.json alone, with the part of transformers' interface that mlx-lm and the worker use.

It gives the ids that transformers would: recipe.py says for which folders. It is safe for use from several threads once
it has encoded something.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import tokenizers

from mlxworker.chat import Renderer
from mlxworker.recipe import Recipe

_NO_LIMIT = int(1e30)  # what transformers gives a tokenizer that names none


class Tokenizer:
    """The tokenizer of one folder."""

    def __init__(self, recipe: Recipe) -> None:
        self.backend_tokenizer = tokenizers.Tokenizer.from_file(str(recipe.folder / "tokenizer.json"))
        self.backend_tokenizer.no_truncation()
        self.backend_tokenizer.no_padding()
        self.chat_template = recipe.template
        self.init_kwargs: dict[str, Any] = dict(recipe.config)
        self.model_max_length = recipe.config.get("model_max_length") or _NO_LIMIT
        self.clean_up_tokenization_spaces = bool(recipe.config.get("clean_up_tokenization_spaces"))
        self.special_tokens_map = dict(recipe.special)
        self._folder = recipe.folder
        self._renderer = Renderer(recipe.template, recipe.special) if recipe.template is not None else None
        self._whole: Any = None

    def __len__(self) -> int:
        """Return the number of tokens."""
        return int(self.backend_tokenizer.get_vocab_size(with_added_tokens=True))

    def __bool__(self) -> bool:
        """Return True: an empty vocabulary is a tokenizer, too."""
        return True

    @property
    def eos_token(self) -> str | None:
        """Return the token that ends an answer."""
        return self.special_tokens_map.get("eos_token")

    @property
    def eos_token_id(self) -> int | None:
        """Return the id of the token that ends an answer."""
        return self._id_of("eos_token")

    @property
    def bos_token(self) -> str | None:
        """Return the token that begins a text."""
        return self.special_tokens_map.get("bos_token")

    @property
    def bos_token_id(self) -> int | None:
        """Return the id of the token that begins a text."""
        return self._id_of("bos_token")

    @property
    def added_tokens_decoder(self) -> dict[int, Any]:
        """Return the added tokens by id."""
        return dict(self.backend_tokenizer.get_added_tokens_decoder())

    def get_vocab(self) -> dict[str, int]:
        """Return all tokens and their ids."""
        return dict(self.backend_tokenizer.get_vocab(with_added_tokens=True))

    @property
    def vocab(self) -> dict[str, int]:
        """Return all tokens and their ids."""
        return self.get_vocab()

    def get_added_vocab(self) -> dict[str, int]:
        """Return the added tokens and their ids."""
        return {token.content: i for i, token in sorted(self.added_tokens_decoder.items(), key=lambda item: item[0])}

    def convert_ids_to_tokens(self, ids: int | Iterable[int]) -> str | list[str | None] | None:
        """Return the name of a token, or those of several; None where there is none."""
        name: Callable[[int], str | None] = self.backend_tokenizer.id_to_token
        return name(ids) if isinstance(ids, int) else [name(int(i)) for i in ids]

    def convert_tokens_to_ids(self, tokens: str | Iterable[str]) -> int | list[int | None] | None:
        """Return the id of a token, or those of several; None where there is none."""
        find: Callable[[str], int | None] = self.backend_tokenizer.token_to_id
        return find(tokens) if isinstance(tokens, str) else [find(t) for t in tokens]

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Return the ids of a text."""
        # A batch, unlike a single text, lets other threads run.
        batch = self.backend_tokenizer.encode_batch([text], add_special_tokens=add_special_tokens)
        return list(batch[0].ids)

    def decode(self, ids: int | Iterable[int], skip_special_tokens: bool = False) -> str:
        """Return the text of ids."""
        several = [ids] if isinstance(ids, int) else list(ids)
        return str(self.backend_tokenizer.decode(several, skip_special_tokens=skip_special_tokens))

    def apply_chat_template(
        self,
        conversation: list[dict[str, Any]],
        tools: list[dict[str, Any]] | None = None,
        tokenize: bool = True,
        return_dict: bool = False,
        **variables: Any,
    ) -> str | list[int]:
        """Return the prompt of a conversation, as ids or as text. Raises what the template raises."""
        if return_dict:
            raise ValueError("a plain tokenizer returns ids, not a dict")
        if variables.get("sanitize_control_tokens"):
            made = self._transformers().apply_chat_template(
                conversation, tools=tools, tokenize=tokenize, return_dict=False, **variables
            )
            return made if isinstance(made, str) else [int(t) for t in made]
        variables.pop("sanitize_control_tokens", None)
        if self._renderer is None:
            raise ValueError("the model has no chat template")
        text = self._renderer.render(conversation, tools, variables)
        return self.encode(text, add_special_tokens=False) if tokenize else text

    def _id_of(self, name: str) -> int | None:
        token = self.special_tokens_map.get(name)
        return None if token is None else self.backend_tokenizer.token_to_id(token)

    def _transformers(self) -> Any:
        """Return transformers' own tokenizer, for what is too rare to be done here. Takes a second, once."""
        if self._whole is None:
            self._whole = importlib.import_module("transformers").AutoTokenizer.from_pretrained(self._folder)
        return self._whole


def loader(recipe: Recipe) -> type:
    """Return what takes the place of transformers' AutoTokenizer while mlx-lm loads this folder's tokenizer."""

    class Loader:
        @staticmethod
        def from_pretrained(_: Path) -> Tokenizer:
            return Tokenizer(recipe)

    return Loader
