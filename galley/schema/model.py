"""What is trained."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import Field

from galley.schema.types import Fraction, Positive


@dataclass(frozen=True)
class Lora:
    """Adapters beside frozen weights, through PEFT.

    Attributes:
        method: `lora` (Hu et al. 2021, arXiv:2106.09685); `dora` trains the lengths of the weights' columns
            besides (Liu et al. 2024, arXiv:2402.09353); `ia3` trains one factor per output of a layer (Liu
            et al. 2022, arXiv:2205.05638) and has no rank, scale or dropout.
        r: rank of the adapters; null trains the whole model, unless `method` is `ia3`.
        alpha: an adapter's output is scaled by alpha / r, or by alpha / √r with `rank_stabilized`.
        dropout: of an adapter's input.
        target_modules: last names of the layers that get adapters (`query`), or `[all-linear]`; null
            is PEFT's own choice for the kind of model.
        feedforward_modules: of `ia3`: those of the target modules whose inputs are scaled instead of their
            outputs; null is PEFT's own choice, or none where `target_modules` are named.
        modules_to_save: further modules that are trained in full and kept with the adapters. The head
            and whatever the stored model lacks are among them in any case.
        merge: the final `model/` is the whole model with the adapters added to its weights, not the
            adapters by themselves.
    """

    method: Literal["lora", "dora", "ia3"] = "lora"
    r: Positive | None = None
    alpha: Annotated[float, Field(gt=0)] = 16.0
    dropout: Fraction = 0.0
    target_modules: list[str] | None = None
    feedforward_modules: list[str] | None = None
    modules_to_save: list[str] = field(default_factory=list)
    rank_stabilized: bool = False
    merge: bool = False

    @property
    def active(self) -> bool:
        """Whether adapters are trained, and not the whole model."""
        return self.r is not None or self.method == "ia3"


@dataclass(frozen=True)
class Shape:
    """Of the model's layers, for the memory estimate, where no local config.json tells it.

    Attributes:
        vocabulary: words of a language model's head, whose logits are estimated with it.
    """

    num_layers: Positive | None = None
    hidden_size: Positive | None = None
    num_heads: Positive | None = None
    intermediate_size: Positive | None = None
    vocabulary: Positive | None = None


@dataclass(frozen=True)
class Bpe:
    """Of `model.tokenizer=bpe`, which is trained on the training texts and kept with the model.

    Attributes:
        vocabulary: tokens at most, the 256 bytes and the end of text among them.
        texts: at most so many texts, the first ones of the training split or of the stream, are read.
    """

    vocabulary: Annotated[int, Field(ge=257)] = 32768
    texts: Positive = 200_000


@dataclass(frozen=True)
class Model:
    """What is trained.

    Attributes:
        name: a Hugging Face repository, a folder, or `embedded:NAME` for a model that an
            installed package carries (`minilm`, `deberta_minilm`, `smollm2`).
        from_config: take only the configuration of `name`; the weights are drawn from the seed.
        architecture: a model type of Transformers (`gpt2`, `llama`, `t5`), built with its default
            configuration and weights drawn from the seed; `name` is then not read, and `tokenizer` is
            needed. Or `MODULE:CLASS`, an `nn.Module` of your own from one of the folders in `plugins`.
        config: values over those of the model's configuration: `{n_layer: 2}`; of a class of your own
            the values that its constructor is called with.
        tokenizer: as `name`, where it is not the model's own; `embedded:gpt2_bpe` is GPT-2's, and
            `characters` has one token for each character of the training data, and `bpe` is a
            byte-level BPE trained on them (causal_lm).
        bpe: read with `tokenizer=bpe` only.
        num_parameters: for the memory estimate, where it cannot be read from a local folder. It is that
            of the `name` beside it: another name or configuration on the command line leaves it out.
        ignore_mismatched_head: give the model a new head when the stored one has another
            number of labels; otherwise that is an error.
        trust_remote_code: run code from the model's repository.
        attn_implementation: `eager`, `sdpa`, `flex_attention`, `flash_attention_2` or `_3`, or the
            repository of a kernel on the hub; null leaves the choice to Transformers.
        dropout: every dropout probability of the model; null leaves those of its config.json.
        lora: train adapters instead of the whole model.
    """

    name: str = "embedded:minilm"
    from_config: bool = False
    architecture: str | None = None
    config: dict[str, Any] = field(default_factory=dict)
    tokenizer: str | None = None
    bpe: Bpe = field(default_factory=Bpe)
    num_parameters: Positive | None = None
    shape: Shape = field(default_factory=Shape)
    ignore_mismatched_head: bool = False
    trust_remote_code: bool = False
    attn_implementation: str | None = None
    dropout: Fraction | None = None
    lora: Lora = field(default_factory=Lora)
