"""Evaluation does not depend on the batch size, whatever the architecture, and whatever pads."""

from __future__ import annotations

from inspect import signature
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from tokenizers.processors import TemplateProcessing

from galley.data.check import Split
from galley.data.roles import Table
from galley.data.squad import Question, QuestionSet
from galley.errors import ConfigError
from galley.schema import Data, Model, Precision, Recipe, Task, Train
from trainer.data.batches import eval_batches
from trainer.data.tokenize.labeled import tokenized
from trainer.data.tokenize.text_pairs import text_pairs
from trainer.data.tokenize.windows import WindowSize, windows
from trainer.hosts.rank_facts import RankFacts
from trainer.hosts.ranks import Ranks
from trainer.models.build import CLASSIFIER, load_tokenizer
from trainer.models.padding import padding_matters
from trainer.run.evaluation import evaluate
from trainer.run.loop import Loop
from trainer.run.throughput import EvalMeter
from trainer.tasks.contrastive import Contrastive
from trainer.tasks.question_answering import QuestionAnswering
from trainer.tasks.sequence_classification import SequenceClassification

WORDS = [f"w{n}" for n in range(30)]
PAD, END = 30, 31
USUAL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
SMALL = {**USUAL, "max_position_embeddings": 40}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 40},
    "gpt_neox": SMALL,
    "gptj": {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 40, "rotary_dim": 4},
    "llama": SMALL,
    "mistral": {**SMALL, "num_key_value_heads": 1},
    "qwen2": {**SMALL, "num_key_value_heads": 1},
    "gemma": {**SMALL, "num_key_value_heads": 1, "head_dim": 8},
    "opt": {**SMALL, "ffn_dim": 16, "word_embed_proj_dim": 16},
    "bloom": {"hidden_size": 16, "n_layer": 1, "n_head": 2},
    "openai-gpt": {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 40},
    "bert": SMALL,
    "distilbert": {"dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 16},
    "roberta": SMALL,
    "xlm-roberta": SMALL,
    "albert": {**SMALL, "embedding_size": 8},
    "electra": {**SMALL, "embedding_size": 8},
    "deberta": {**SMALL, "relative_attention": True, "pos_att_type": ["c2p", "p2c"]},
    "deberta-v2": {**SMALL, "relative_attention": True, "pos_att_type": ["c2p", "p2c"]},
    "mpnet": SMALL,
    "t5": {"d_model": 16, "num_layers": 1, "num_heads": 2, "d_kv": 8, "d_ff": 16},
    "bart": {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
             "decoder_attention_heads": 2, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16},
    "xlnet": {"d_model": 16, "n_layer": 1, "n_head": 2, "d_inner": 16},
    "fnet": {"hidden_size": 16, "num_hidden_layers": 1, "intermediate_size": 16},
    "convbert": {**SMALL, "embedding_size": 16, "head_ratio": 1},
}  # fmt: skip
# These mix padding into their answers; no mask keeps it out.
MIXING = {"xlnet", "fnet", "convbert"}


def a_tokenizer() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: number for number, word in enumerate([*WORDS, "[PAD]", "</s>"])}
    backend = Tokenizer(models.WordLevel(vocabulary))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", END)]
    )
    made: Any = PreTrainedTokenizerFast
    special = {"pad_token": "[PAD]", "eos_token": "</s>"}
    return made(tokenizer_object=backend, model_input_names=["input_ids", "attention_mask"], **special)


def stored_model(folder: Path, kind: str, pad: int | None, auto: str = CLASSIFIER) -> Path:
    """A model of random weights whose own padding token is `pad`, with larger weights than usual."""
    import transformers

    settings = transformers.AutoConfig.for_model(
        kind, **ARCHITECTURES[kind], vocab_size=32, num_labels=2, eos_token_id=END, bos_token_id=2
    )
    settings.pad_token_id, settings.decoder_start_token_id = pad, 0
    torch.manual_seed(0)
    model = getattr(transformers, auto).from_config(settings)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.copy_(torch.randn_like(parameter) / 2)
    model.save_pretrained(folder)
    return folder


def one_process() -> Ranks:
    return Ranks(RankFacts(0, 1, 0, "none"), torch.device("cpu"), grouped=False)


def losses(task: Any, model: torch.nn.Module, dataset: Any) -> tuple[list[float], bool]:
    """`eval/loss` with one sample a batch, with two, and with all; and whether padding matters."""
    task.ranks = ranks = one_process()
    apart = padding_matters(model, task, dataset, ranks, "fp32")
    found = [
        evaluate(model, task, dataset, size, ranks, EvalMeter(), apart)["eval/loss"] for size in (1, 2, 64)
    ]
    return found, apart


def a_classifier(folder: Path, tmp_path: Path, tokenizer: Any) -> tuple[Any, torch.nn.Module, Any]:
    random = np.random.default_rng(1)
    texts = [" ".join(random.choice(WORDS, size)) for size in (3, 20, 1, 7, 7, 14, 2, 31)]
    recipe = Recipe(
        model=Model(name=str(folder)), data=Data(max_length=32), task=Task("sequence_classification")
    )
    task = SequenceClassification(recipe)
    task._tokenizer, task.num_labels = tokenizer, 2
    dataset = tokenized(Split((texts,), [0, 1, 0, 1, 1, 0, 1, 0], "here"), tokenizer, 32, tmp_path)
    return task, task.model().eval(), dataset


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_classifiers_whose_own_padding_token_is_a_word(tmp_path: Path, kind: str) -> None:
    """Token 0 is `w0` to the tokenizer, and stands in the texts."""
    folder = stored_model(tmp_path / "model", kind, 0)
    task, model, dataset = a_classifier(folder, tmp_path, a_tokenizer())
    if kind == "fnet" and "kwargs" not in signature(model.forward).parameters:
        pytest.skip("FNet of Transformers 4.57 takes no attention mask")
    found, apart = losses(task, model, dataset)
    assert found == pytest.approx([found[0]] * 3, rel=1e-4)
    assert apart == (kind in MIXING)


@pytest.mark.parametrize("kind", ["gpt2", "gpt_neox", "llama"])
def test_a_padding_token_that_only_the_tokenizer_has(tmp_path: Path, kind: str) -> None:
    """Transformers refuses more than one sample of a decoder that has none."""
    task, model, dataset = a_classifier(stored_model(tmp_path / "model", kind, None), tmp_path, a_tokenizer())
    found, _ = losses(task, model, dataset)
    assert found == pytest.approx([found[0]] * 3, rel=1e-4)
    assert model.config.pad_token_id == PAD  # type: ignore[union-attr]  # the saved model knows it, too


def test_the_last_token_is_that_of_plain_transformers_without_padding(tmp_path: Path) -> None:
    """`w0`, the model's own padding token, ends no text: there the classifier reads the real last token."""
    folder = stored_model(tmp_path / "model", "gpt2", 0)
    task, model, dataset = a_classifier(folder, tmp_path, a_tokenizer())
    from transformers import GPT2ForSequenceClassification

    plain = GPT2ForSequenceClassification.from_pretrained(folder).eval()
    plain.config.pad_token_id = None  # of one sample the very last position is taken
    row = dataset.rows([3])[0]
    expected = plain(input_ids=torch.tensor(row["input_ids"].astype(np.int64))[None]).logits
    batch = task.collate(dataset.rows(range(len(dataset))))
    torch.testing.assert_close(task.predict(model, batch)[3], expected[0].detach(), rtol=1e-4, atol=1e-5)


def test_positions_that_are_counted_from_padding_stay(tmp_path: Path) -> None:
    folder = stored_model(tmp_path / "model", "roberta", 1)
    _, model, _ = a_classifier(folder, tmp_path, a_tokenizer())
    assert model.config.pad_token_id == 1  # type: ignore[union-attr]


@pytest.mark.parametrize("encoder", ["bert", "deberta-v2"])
def test_the_span_of_an_answer_is_none_of_padding(tmp_path: Path, encoder: str) -> None:
    folder = stored_model(tmp_path / "model", encoder, 0, "AutoModelForQuestionAnswering")
    kind, data = Task("question_answering"), Data(max_length=32)
    task = QuestionAnswering(Recipe(model=Model(name=str(folder)), data=data, task=kind))
    tokenizer = a_tokenizer()
    task._tokenizer = tokenizer
    contexts = ["w3 w4", " ".join(WORDS[:17]), "w7 w8 w9 w10 w3 w4"]
    questions = [
        Question(str(n), "w1 w2", c, ["w4"], [(c.index("w4"), c.index("w4") + 2)])
        for n, c in enumerate(contexts)
    ]
    split = QuestionSet(questions, "here")
    task._questions = {"eval": split}
    dataset = windows(split, tokenizer, WindowSize(32, 4), tmp_path)
    found, apart = losses(task, task.model().eval(), dataset)
    assert found == pytest.approx([found[0]] * 3, rel=1e-5)
    assert not apart


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_a_tokenizer_that_cannot_pad_pads_with_the_end_that_it_does_not_use(
    tmp_path: Path, kind: str
) -> None:
    """As the sources do for Llama 2 and Mistral; the expected logits are those of each text by itself."""
    folder = stored_model(tmp_path / "model", kind, None)
    saved = a_tokenizer()
    saved._tokenizer.post_processor = TemplateProcessing(single="$A")
    saved.pad_token = None
    saved.save_pretrained(folder)
    tokenizer = load_tokenizer(Recipe(model=Model(name=str(folder)), data=Data(max_length=32)))
    assert tokenizer.pad_token_id == END
    task, model, dataset = a_classifier(folder, tmp_path, tokenizer)
    found, _ = losses(task, model, dataset)
    assert found == pytest.approx([found[0]] * 3, rel=1e-4)


def test_a_tokenizer_that_cannot_pad_and_ends_texts_is_refused(tmp_path: Path) -> None:
    folder = stored_model(tmp_path / "model", "llama", None)
    saved = a_tokenizer()
    saved.pad_token = None
    saved.save_pretrained(folder)
    with pytest.raises(ConfigError, match="its tokenizer has no padding token"):
        load_tokenizer(Recipe(model=Model(name=str(folder)), data=Data(max_length=32)))


def test_batches_of_one_length_are_never_padded() -> None:
    lengths = np.array([5, 3, 5, 3, 3, 9, 5], dtype=np.int32)
    batches = eval_batches(lengths, 2, one_length=True)
    assert [lengths[batch].tolist() for batch in batches] == [[9], [5, 5], [5], [3, 3], [3]]
    assert sorted(np.concatenate(batches).tolist()) == list(range(7))


def test_a_head_that_begins_at_zero_is_asked_again_once_it_has_learned(tmp_path: Path) -> None:
    folder = stored_model(tmp_path / "model", "fnet", 0)
    task, model, dataset = a_classifier(folder, tmp_path, a_tokenizer())
    ranks = task.ranks = one_process()
    engine = SimpleNamespace(evaluated=model, setup=SimpleNamespace(replicas=ranks))
    recipe = Recipe(precision=Precision(compute="fp32"))
    loop = object.__new__(Loop)
    loop.parts = cast("Any", SimpleNamespace(recipe=recipe, engine=engine, task=task))
    head = cast("Any", model).classifier
    with torch.no_grad():
        head.weight.zero_()
        assert not loop._needs_one_length(dataset)
        head.weight.normal_(generator=torch.Generator().manual_seed(0))
    assert loop._needs_one_length(dataset)


def test_a_shortest_sample_without_a_target_hides_nothing(tmp_path: Path) -> None:
    """Its loss is 0 whatever pads it; the next longer one has a target."""
    task, model, dataset = a_classifier(stored_model(tmp_path / "model", "fnet", 0), tmp_path, a_tokenizer())
    assert dataset.labels[np.argmin(dataset.lengths)] == 0
    task.class_weights = torch.tensor([0.0, 1.0])
    assert padding_matters(model, task, dataset, one_process(), "fp32")
    task.class_weights = torch.tensor([0.0, 0.0])
    assert not padding_matters(model, task, dataset, one_process(), "fp32")


LEFT = ["w1", "w2 w3 w4 w5 w6 w7", "w8 w9", "w3 w1 w2 w9 w9 w7 w5 w4 w8"]
RIGHT = ["w4 w5 w6", "w1", "w7 w8 w9 w1 w2 w3 w4", "w11 w12"]


def a_contrastive(folder: Path, tmp_path: Path, tokenizer: Any) -> tuple[Contrastive, Any, Any]:
    task = Contrastive(
        Recipe(model=Model(name=str(folder)), data=Data(max_length=32), task=Task("contrastive"))
    )
    task._tokenizer = tokenizer
    pairs = Table({"text": LEFT, "partner": RIGHT}, "here")
    return task, task.model().eval(), text_pairs(pairs, tokenizer, 32, tmp_path)


def embedded_alone(model: Any, tokenizer: Any, texts: list[str]) -> torch.Tensor:
    """By Transformers alone, one text at a time: the mean of its hidden states, of length 1."""
    found = [model(torch.tensor([tokenizer(text)["input_ids"]])).last_hidden_state.mean(1) for text in texts]
    return torch.nn.functional.normalize(torch.cat(found), dim=-1).detach()


@pytest.mark.parametrize("kind", ["bert", "fnet", "convbert"])
def test_embeddings_are_those_of_each_text_by_itself(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = a_tokenizer()
    task, model, dataset = a_contrastive(
        stored_model(tmp_path / "model", kind, PAD, "AutoModel"), tmp_path, tokenizer
    )
    seen: list[Any] = []

    def keep(predictions: Any, dataset: Any) -> dict[str, float]:
        seen.append(predictions)
        return {}

    monkeypatch.setattr(task, "metrics", keep)
    found, apart = losses(task, model, dataset)
    assert apart == (kind in MIXING)
    left, right = (embedded_alone(model, tokenizer, texts) for texts in (LEFT, RIGHT))
    for predictions in seen:
        torch.testing.assert_close(torch.from_numpy(predictions), torch.stack([left, right], 1))
    scores = 20 * left @ right.T
    assert found[2] == pytest.approx(
        torch.nn.functional.cross_entropy(scores, torch.arange(4)).item(), rel=1e-4
    )
    assert not task.unpadded


def test_ranks_with_fewer_lengths_run_as_many_forwards_as_the_others(tmp_path: Path) -> None:
    task, model, dataset = a_contrastive(
        stored_model(tmp_path / "model", "bert", PAD, "AutoModel"), tmp_path, a_tokenizer()
    )
    batch, forwards = task.collate(dataset.rows([0, 3])), list[int]()
    expected = task.embeddings(model, batch).detach()
    task.ranks, task.unpadded = cast("Any", SimpleNamespace(max_floats=lambda own: [own[0] + 2])), True
    model.register_forward_hook(lambda *call: forwards.append(1))
    torch.testing.assert_close(task.embeddings(model, batch).detach(), expected)
    assert len(forwards) == len({2, 4, 10, 3}) + 2


def test_a_compiled_model_is_said_not_to_be_checked_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    loop = object.__new__(Loop)
    recipe = Recipe(train=Train(compile=True))
    loop.parts, loop._evaluated_at = cast("Any", SimpleNamespace(recipe=recipe, engine=None)), None
    assert not loop._needs_one_length(cast("Any", SimpleNamespace(lengths=np.array([5, 5]))))
    assert not caplog.records
    for loop._evaluated_at in (None, 10):
        assert not loop._needs_one_length(cast("Any", SimpleNamespace(lengths=np.array([3, 5]))))
    (record,) = caplog.records
    assert "it is not checked whether padding changes" in record.message
