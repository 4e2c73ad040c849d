"""A tokenizer whose tokens are the characters of a text."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from trainer.compatibility import MODEL_INPUTS

END_OF_TEXT = "<|endoftext|>"
UNKNOWN = "<|unknown|>"


def character_tokenizer(texts: Iterable[str]) -> Any:
    """Return a tokenizer with one token per character of `texts`, in Unicode order, after two special ones.

    A character that `texts` lack becomes `<|unknown|>`.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    characters = sorted(set().union(*texts))
    vocabulary = {token: number for number, token in enumerate([END_OF_TEXT, UNKNOWN, *characters])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    backend.decoder = decoders.Fuse()
    made: Any = PreTrainedTokenizerFast  # untyped
    special = {"eos_token": END_OF_TEXT, "pad_token": END_OF_TEXT, "unk_token": UNKNOWN}
    return made(tokenizer_object=backend, model_input_names=list(MODEL_INPUTS), **special)
