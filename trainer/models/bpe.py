"""A byte-level BPE that is trained on the run's own texts, like CodeParrot's; cached by content."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trainer.assets.folder import made_once
from trainer.compatibility import MODEL_INPUTS
from trainer.data.store import digest

log = logging.getLogger("galley")

FORMAT = 1
END_OF_TEXT = "<|endoftext|>"


def bpe_tokenizer(texts: Sequence[str], vocabulary: int, cache: Path) -> Any:
    """Return a tokenizer like GPT-2's with at most `vocabulary` tokens. Equal texts give equal tokens.

    The first rank of a node trains it, inside `main_first`; the others read it from the cache. Nodes that
    share no cache train the same one.
    """
    from transformers import AutoTokenizer

    key = digest({"format": FORMAT, "vocabulary": vocabulary}, [texts])
    folder = made_once(cache / "bpe" / key, lambda target: _train(texts, vocabulary, target))
    return AutoTokenizer.from_pretrained(str(folder))


def _train(texts: Sequence[str], vocabulary: int, folder: Path) -> None:
    """Train the tokenizer and save it in `folder`."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend: Any = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    # With all 256 bytes in the alphabet, no text has an unknown character.
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=[END_OF_TEXT], show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )  # fmt: skip
    backend.train_from_iterator(texts, trainer)
    made: Any = PreTrainedTokenizerFast  # untyped
    ends = dict.fromkeys(("bos_token", "eos_token", "unk_token"), END_OF_TEXT)
    made(tokenizer_object=backend, model_input_names=list(MODEL_INPUTS), **ends).save_pretrained(str(folder))
    log.info("a byte-level BPE of %d tokens, trained on %d texts", backend.get_vocab_size(), len(texts))
