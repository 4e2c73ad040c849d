"""What is learned from the data, and by which loss."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import Field

from galley.schema.types import Fraction, NonNegative, Positive


@dataclass(frozen=True)
class Classification:
    """What only classification of one label knows.

    Attributes:
        class_weights: factor of the loss of each class, in their order, or `balanced`: samples ÷
            (classes × samples of the class), counted in the training split.
    """

    class_weights: Literal["balanced"] | list[Annotated[float, Field(gt=0)]] | None = None


@dataclass(frozen=True)
class QuestionAnswering:
    """What only `question_answering` knows.

    Attributes:
        doc_stride: tokens of the context that neighboring windows of `data.max_length` share.
        max_answer_length: tokens of an answer.
        no_answer_threshold: "no answer" wins where its score is above that of the best span by more
            than this; only with data that have such questions.
    """

    doc_stride: Positive = 128
    max_answer_length: Positive = 30
    no_answer_threshold: float = 0.0


@dataclass(frozen=True)
class Contrastive:
    """What only `contrastive` knows.

    Attributes:
        scale: factor of the cosines, the inverse of the temperature.
    """

    scale: Annotated[float, Field(gt=0)] = 20.0


@dataclass(frozen=True)
class MaskedDistillation:
    """What only `masked_lm_distillation` knows. The defaults are those of DistilBERT's training script.

    Attributes:
        soft_weight: factor of the loss against the teacher's probabilities.
        label_weight: factor of the masked language modeling loss.
        hidden_weight: factor of 1 - cosine of the last hidden states of student and teacher.
        soft_positions: tokens whose probabilities are compared: the `masked` ones, or `all`.
        layers: the teacher's layers, counted from 0, from which the student's start, in their order, with
            embeddings and head; the student is then a new `distilbert`. Null leaves its weights as
            `model` says.
        untrained_teacher_head: accept a teacher without a masked language modeling head: its head is drawn
            from the seed. To try a recipe, not to train a model.
    """

    soft_weight: Annotated[float, Field(ge=0)] = 5.0
    label_weight: Annotated[float, Field(ge=0)] = 2.0
    hidden_weight: Annotated[float, Field(ge=0)] = 1.0
    soft_positions: Literal["masked", "all"] = "masked"
    layers: list[NonNegative] | None = None
    untrained_teacher_head: bool = False


@dataclass(frozen=True)
class Distillation:
    """What only `distillation` and `masked_lm_distillation` know.

    Attributes:
        teacher: the folder of a classifier that was trained on the same labels (`RUN/model`), or of a
            masked language model, or its name on the hub; it has the student's tokenizer.
        temperature: both logits are divided by it before they are compared.
        weight: `distillation`: share of the teacher in the loss; the rest is the labels'.
        masked: read by `masked_lm_distillation` only.
    """

    teacher: str | None = None
    temperature: Annotated[float, Field(gt=0)] = 2.0
    weight: Fraction = 0.5
    masked: MaskedDistillation = field(default_factory=MaskedDistillation)


@dataclass(frozen=True)
class LanguageModeling:
    """What only `causal_lm`, `masked_lm` and `masked_lm_distillation` know.

    Attributes:
        packing: join all texts and cut the whole into pieces of `data.max_length` tokens; otherwise
            a text is a sample, truncated.
        separator: put the end-of-text token behind every text.
        fim_rate: share of the texts that are rearranged for fill-in-the-middle.
        fim_spm_rate: share of those in which the suffix comes first (SPM), not the prefix (PSM).
        eval_stride: tokens between the starts of two evaluation windows of `data.max_length`; each
            token is measured once, with what came before it in its window. Null is `data.max_length`.
        mask_rate: masked_lm, masked_lm_distillation: share of the tokens that are to be found again.
    """

    packing: bool = True
    separator: bool = True
    fim_rate: Fraction = 0.0
    fim_spm_rate: Fraction = 0.5
    eval_stride: Positive | None = None
    mask_rate: Annotated[float, Field(gt=0, lt=1)] = 0.15


@dataclass(frozen=True)
class Seq2Seq:
    """What only `seq2seq` knows; `data.max_length` is the length of the source.

    Attributes:
        prefix: put before every source.
        max_target_length: tokens of the target, and of what is generated.
        beams: of beam search in evaluation; 1 is greedy.
        generate: whether evaluation generates and reports BLEU.
        min_length: tokens written at least; null is the model's own choice, here and in what follows.
        no_repeat_ngram: so many tokens in a row are written once; 0 allows any.
        repetition_penalty: tokens that stand there already are less likely by this factor
            (arXiv:1909.05858); 1 is none.
    """

    prefix: str = ""
    max_target_length: Positive = 64
    beams: Positive = 1
    generate: bool = True
    min_length: NonNegative | None = None
    no_repeat_ngram: NonNegative | None = None
    repetition_penalty: Annotated[float, Field(gt=0)] | None = None


@dataclass(frozen=True)
class Task:
    """What the model learns.

    Attributes:
        kind: one of those in conf/task/, or `MODULE:CLASS`, a class of your own behind the task seam
            (`trainer.tasks.base.Task`), from one of the folders in `plugins`.
        classification: read by `sequence_classification` and `distillation` only.
        qa: read by `question_answering` only.
        contrastive: read by `contrastive` only.
        distillation: read by `distillation` and `masked_lm_distillation` only.
        lm: read by `causal_lm`, `masked_lm` and `masked_lm_distillation` only.
        seq2seq: read by `seq2seq` only.
        options: of a task from outside Galley, which is given them as they are.
    """

    kind: str = "sequence_classification"
    classification: Classification = field(default_factory=Classification)
    qa: QuestionAnswering = field(default_factory=QuestionAnswering)
    contrastive: Contrastive = field(default_factory=Contrastive)
    distillation: Distillation = field(default_factory=Distillation)
    lm: LanguageModeling = field(default_factory=LanguageModeling)
    seq2seq: Seq2Seq = field(default_factory=Seq2Seq)
    options: dict[str, Any] = field(default_factory=dict)
