"""What the server of the ranks imports once, so that no rank imports it again.

DeepSpeed imports half of torch's compiler when it makes an engine, three seconds a rank. Nothing here may
ask for a GPU: ranks are forked from this process.
"""

import importlib

from galley.spec import MemoryLimit, Progress, RankError, RunResult, RunSpec, adapter

MODULES = (
    "deepspeed", "deepspeed.module_inject.auto_ep_layer",
    "deepspeed.runtime.superoffload.superoffload_stage3",
    "deepspeed.runtime.zero.muon.muon_optimizer", "functorch.compile", "pyarrow", "torch._dynamo",
    "torch._subclasses.schema_check_mode", "torch.distributed.tensor.parallel",
    "torch.distributed.pipelining", "torch.distributed.optim",
    "transformers.models.auto.modeling_auto", "transformers.models.auto.tokenization_auto",
    "transformers.models.bert.modeling_bert", "transformers.models.gpt2.modeling_gpt2",
    "transformers.models.llama.modeling_llama",
    "trainer.run.session", "trainer.engines.fsdp", "trainer.engines.model_parallel.mesh",
    "trainer.engines.model_parallel.pipeline", "trainer.engines.deepspeed.zero3",
    "trainer.tasks.language_modeling", "trainer.tasks.sequence_classification",
    "trainer.worker", "tests.integration.train.tiny",
)  # fmt: skip

for name in MODULES:
    importlib.import_module(name)
for kind in (MemoryLimit, Progress, RankError, RunResult, RunSpec):
    adapter(kind)
