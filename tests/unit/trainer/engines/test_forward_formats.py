"""The format of the work is read off the layers' results, not off the request."""

from __future__ import annotations

import pytest
import torch

from galley.schema import Dtype
from trainer.engines.forward_formats import ForwardFormats
from trainer.engines.precision import autocast_forward


class Net(torch.nn.Module):
    """`exact`: its last layer computes in fp32 whatever is asked for, as routers of experts do."""

    def __init__(self, exact: bool = False) -> None:
        super().__init__()
        self.embedding, self.norm = torch.nn.Embedding(8, 4), torch.nn.LayerNorm(4)
        self.first, self.second, self.exact = torch.nn.Linear(4, 4), torch.nn.Linear(4, 2), exact

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        found = self.norm(self.first(self.embedding(tokens)))
        if not self.exact:
            return self.second(found)
        with torch.autocast("cpu", enabled=False):
            return self.second(found.float())


def formats(net: Net, compute: Dtype) -> set[torch.dtype]:
    autocast_forward(net, compute, "cpu")
    watch = ForwardFormats(net, lambda parameter: tuple(parameter.shape))
    net(torch.arange(4))
    watch.close()
    seen = {*watch.seen}
    vars(net).pop("forward", None)
    if not net.exact:
        net.double()(torch.arange(4))  # nothing is watched any more
    assert watch.seen == seen
    return seen


@pytest.mark.parametrize(
    ("compute", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)]
)
def test_every_layer_computes_as_was_asked(compute: Dtype, dtype: torch.dtype) -> None:
    assert formats(Net(), compute) == {dtype}


def test_a_layer_that_keeps_its_own_format_is_seen() -> None:
    assert formats(Net(exact=True), "bf16") == {torch.bfloat16, torch.float32}
