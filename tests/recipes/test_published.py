"""Every recipe in full is the one that its source publishes, value for value."""

from __future__ import annotations

import math
from functools import reduce
from typing import Any

import pytest

from galley.config.compose import compose_recipe

CPU_GLUE = {
    "data.max_length": 128, "batch.micro_size": 32, "optim.lr": 2e-5, "train.epochs": 3.0,
    "strategy.name": "oneccl_cpu", "launcher.kind": "mpi",
}  # fmt: skip
BERT = "google-bert/bert-base-uncased"
CODE = {
    "model.architecture": "gpt2", "model.tokenizer": "bpe", "data.streaming": True, "task.lm.packing": True,
    "task.lm.separator": True, "strategy.name": "ddp", "cluster.nodes": 2, "cluster.procs_per_node": 8,
}  # fmt: skip
SQUAD = {
    "data.name": "rajpurkar/squad", "data.max_length": 384, "task.qa.doc_stride": 128, "batch.micro_size": 12,
    "optim.lr": 3e-5, "train.epochs": 2.0, "strategy.name": "oneccl_cpu",
}  # fmt: skip
MRPC = {
    "model.name": "microsoft/deberta-v2-xlarge-mnli", "model.ignore_mismatched_head": True,
    "data.name": "nyu-mll/glue", "data.subset": "mrpc", "data.max_length": 128, "optim.lr": 2e-5,
    "train.epochs": 3.0,
}  # fmt: skip
DIALOGUE = {
    "model.name": "facebook/blenderbot-400M-distill", "data.name": "smangrul/MuDoConv",
    "data.max_samples": 10000, "data.max_eval_samples": 1000, "data.max_length": 128,
    "task.seq2seq.prefix": "chatbot: ", "task.seq2seq.max_target_length": 64, "task.seq2seq.beams": 10,
    "task.seq2seq.min_length": 20, "task.seq2seq.no_repeat_ngram": 3,
    "task.seq2seq.repetition_penalty": 1.2, "optim.lr": 1e-6, "optim.weight_decay": 0.0,
    "train.epochs": 1.0, "schedule.warmup_steps": 100, "seed": 25,
}  # fmt: skip
TWEETS = {
    "data.name": "mehdiiraqui/twitter_disaster", "data.max_length": 512, "data.hold_out": 1523,
    "model.lora.alpha": 16.0, "optim.lr": 1e-4, "schedule.kind": "constant", "schedule.warmup_ratio": 0.1,
    "optim.weight_decay": 0.001, "optim.grad_clip": 0.3, "batch.global_size": 8, "train.epochs": 5.0,
    "train.gradient_checkpointing": True, "eval.every_epochs": 1.0, "checkpoint.keep_best": "eval/loss",
    # Saved each epoch, too: 80 % of 7613 tweets in batches of 8, the last of them smaller.
    "checkpoint.every_steps": math.ceil((7613 - 1523) / 8),
    "task.classification.class_weights": "balanced", "strategy.name": "single", "tracker.kind": "wandb",
}  # fmt: skip
# Words of the command line -> what they mean. Batches are of all GPUs together: two of them where a
# source says so.
PUBLISHED: dict[str, dict[str, Any]] = {
    "recipe=mrpc_deberta": {**MRPC, "batch.global_size": 2 * 8, "strategy.name": "ddp"},
    "recipe=mrpc_deberta strategy=zero2": {
        **MRPC, "batch.global_size": 2 * 40, "strategy.name": "zero2", "precision.compute": "fp16",
    },
    "recipe=mudoconv_blenderbot": {**DIALOGUE, "batch.global_size": 2 * 100, "eval.batch_size": 50},
    "recipe=mudoconv_blenderbot strategy=zero2": {
        **DIALOGUE, "batch.global_size": 2 * 200, "eval.batch_size": 100, "strategy.shard": "grads",
    },
    "recipe=wikitext2_gpt2xl": {
        "model.name": "openai-community/gpt2-xl", "model.from_config": True,
        "data.subset": "wikitext-2-raw-v1", "data.max_length": 128, "optim.lr": 5e-4,
        "batch.global_size": 2 * 16, "eval.batch_size": 1, "train.epochs": 1.0,
        "strategy.name": "zero3_offload", "precision.compute": "fp16",
    },
    "recipe=wikitext2_gpt2": {
        "model.name": "openai-community/gpt2", "model.from_config": False,
        "data.subset": "wikitext-2-raw-v1", "batch.global_size": 2 * 4, "train.max_steps": 200,
        "strategy.name": "ddp",
    },
    "recipe=mrpc_bert_cpu": {
        **CPU_GLUE, "model.name": "google-bert/bert-base-cased", "data.subset": "mrpc"
    },
    "recipe=qqp_distilbert_cpu": {
        **CPU_GLUE, "model.name": "distilbert/distilbert-base-uncased", "data.subset": "qqp"
    },
    "recipe=squad_bert_large": {
        **SQUAD, "model.name": "google-bert/bert-large-uncased", "launcher.kind": "mpi",
        "precision.compute": "bf16", "cluster.nodes": 2, "cluster.procs_per_node": 2,
        "cluster.threads_per_proc": 23,
    },
    "recipe=squad_distilbert_spr": {
        **SQUAD, "batch.micro_size": 32, "train.epochs": 1.0, "precision.compute": "bf16",
        "model.name": "distilbert/distilbert-base-uncased", "launcher.kind": "mpi", "cluster.nodes": 4,
        "cluster.procs_per_node": 2, "cluster.cpus_per_node": 32, "strategy.ccl_workers": 2,
    },
    "recipe=squad_distilbert_k8s": {
        **SQUAD, "model.name": "distilbert/distilbert-base-uncased", "launcher.kind": "k8s",
        "precision.compute": "bf16", "cluster.nodes": 4, "launcher.k8s.min_nodes": 1,
        "launcher.k8s.max_nodes": 4, "cluster.cpus_per_node": 240, "cluster.memory_gib_per_node": 128.0,
    },
    "recipe=starcoder_fsdp": {
        "model.name": "bigcode/starcoder", "data.name": "smangrul/hf-stack-v1", "data.max_length": 2048,
        "task.lm.packing": True, "task.lm.fim_rate": 0.5, "task.lm.fim_spm_rate": 0.5,
        "train.log_every_steps": 25, "data.loader_workers": 4,
        "model.attn_implementation": "flash_attention_2",
        "train.max_steps": 2000, "batch.micro_size": 1,
        "batch.accumulation": 2, "optim.lr": 5e-5, "schedule.kind": "cosine", "optim.weight_decay": 0.01,
        "schedule.warmup_steps": 30, "eval.every_steps": 100, "checkpoint.every_steps": 500,
        "strategy.name": "fsdp", "precision.compute": "bf16", "cluster.max_procs_per_node": 8,
    },
    "recipe=disaster_lora_roberta": {
        **TWEETS, "model.name": "FacebookAI/roberta-large", "model.lora.r": 2, "model.lora.dropout": 0.1,
    },
    "recipe=disaster_lora_mistral": {
        **TWEETS, "model.name": "mistralai/Mistral-7B-v0.1", "model.lora.r": 2, "model.lora.dropout": 0.1,
        "model.lora.target_modules": ["q_proj", "v_proj"], "precision.compute": "fp16",
    },
    "recipe=disaster_lora_llama2": {
        **TWEETS, "model.name": "meta-llama/Llama-2-7b-hf", "model.lora.r": 16, "model.lora.dropout": 0.05,
        "model.lora.target_modules": ["q_proj", "v_proj"], "precision.compute": "fp16",
    },
    "recipe=disaster_lora_sweep": {
        "hpo.kind": "wandb", "hpo.trials": 30, "hpo.objectives": ["eval/f1:max"], "data.max_length": 512,
        "hpo.space": {
            "model.lora.alpha": [16, 32, 64], "model.lora.dropout": {"low": 0.0, "high": 0.1},
            "model.lora.r": [4, 8, 16, 32], "optim.lr": {"low": 1e-5, "high": 2e-4},
        },
    },
    "recipe=distilbert_pretraining": {
        "model.architecture": "distilbert", "model.config": {}, "model.tokenizer": BERT,
        "task.distillation.teacher": BERT, "task.distillation.temperature": 2.0,
        "task.distillation.masked.soft_weight": 5.0, "task.distillation.masked.label_weight": 2.0,
        "task.distillation.masked.hidden_weight": 1.0,
        "task.distillation.masked.layers": [0, 2, 4, 7, 9, 11], "task.lm.mask_rate": 0.15,
        "batch.global_size": 4000, "batch.micro_size": 5, "optim.lr": 5e-4, "optim.eps": 1e-6,
        "optim.weight_decay": 0.0, "optim.grad_clip": 5.0, "schedule.warmup_ratio": 0.05,
        "train.epochs": 3.0, "strategy.name": "ddp", "cluster.max_procs_per_node": 8,
    },
    "recipe=sentence_embeddings": {
        "task.kind": "contrastive", "task.contrastive.scale": 20.0, "data.one_source_batches": True,
        "model.name": "nreimers/MiniLM-L6-H384-uncased", "strategy.name": "ddp",
    },
    "recipe=codeparrot": {**CODE, "model.config": {"n_layer": 48, "n_embd": 1600, "n_head": 25}},
    "recipe=codeparrot_small": {**CODE, "model.config": {}},
    "recipe=bloom_3d": {
        "data.max_length": 2048, "precision.compute": "bf16", "checkpoint.every_steps": 100,
        "launcher.kind": "slurm", "cluster.nodes": 48, "cluster.procs_per_node": 8,
        "strategy.shard": "optimizer",
    },
    "recipe=bert_cpu_knobs": {
        "model.name": "google-bert/bert-base-cased", "hpo.kind": "optuna", "hpo.trials": 20,
        "hpo.objectives": ["samples_per_s:max", "latency_s:min"],
    },
    "recipe=mrpc_bert_sweep": {
        "hpo.kind": "optuna", "hpo.trials": 20, "hpo.objectives": ["eval/loss:min", "eval/f1:max"],
        "hpo.space": {
            "optim.lr": {"low": 1e-6, "high": 1e-4, "log": True}, "batch.global_size": [16, 32, 64, 128]
        },
    },
}  # fmt: skip


@pytest.mark.parametrize("words", PUBLISHED)
def test_its_values_are_those_of_the_source(words: str) -> None:
    recipe, expected = compose_recipe(words.split()), PUBLISHED[words]
    found = {key: reduce(getattr, key.split("."), recipe) for key in expected}
    assert found == expected
