"""Each supported version of a library gets what it takes: stand-ins have the signatures of all of them."""

from __future__ import annotations

import importlib
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from trainer import compatibility
from trainer.engines.model_parallel.stages import Skipped


class DdpOf212:
    """From torch 2.12 the option for each forward says nothing about the start."""

    def __init__(
        self, module: Any, broadcast_buffers: bool | None = None, forward_sync_buffers: bool | None = None
    ) -> None:
        assert broadcast_buffers is None  # deprecated there
        self.at_start, self.each_forward = True, forward_sync_buffers


class DdpOf29:
    """Up to torch 2.11; what is read at each forward is the attribute."""

    def __init__(self, module: Any, broadcast_buffers: bool = True) -> None:
        self.at_start = self.broadcast_buffers = broadcast_buffers

    @property
    def each_forward(self) -> bool:
        return self.broadcast_buffers


@pytest.mark.parametrize("version", [DdpOf212, DdpOf29])
@pytest.mark.parametrize("wanted", [True, False])
def test_buffers_are_synced_at_the_start_and_if_wanted_in_each_forward(
    version: Any, wanted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.nn.parallel, "DistributedDataParallel", version)
    ddp: Any = compatibility.make_ddp(torch.nn.Linear(1, 1), sync_buffers=wanted)
    assert (ddp.at_start, ddp.each_forward) == (True, wanted)


class StageOf29:
    """What torch 2.9 sends to a neighbor that receives fp32."""

    def _get_init_p2p_neighbors_ops(self) -> list[Any]:
        return [SimpleNamespace(tensor=torch.tensor(1)), SimpleNamespace(tensor=torch.zeros(1))]


def test_stages_open_their_connections_with_one_dtype() -> None:
    stage = compatibility.with_one_opening_dtype(StageOf29())
    assert [op.tensor.dtype for op in stage._get_init_p2p_neighbors_ops()] == [torch.float32] * 2


class ScheduleOf29:
    def step(self, *args: Any, target: Any = None, losses: Any = None, **kwargs: Any) -> None: ...


class ScheduleOf213:
    def step(self, *args: Any, target: Any = None, return_outputs: bool = True, **kwargs: Any) -> None: ...


def test_only_a_schedule_that_can_leave_outputs_out_is_asked_to() -> None:
    """Another one would hand the option to the model."""
    assert compatibility.without_outputs(ScheduleOf29()) == {}
    assert compatibility.without_outputs(ScheduleOf213()) == {"return_outputs": False}


class LayerOf50(torch.nn.Module):
    def forward(self, hidden_states: Any, output_attentions: bool = False, **rest: Any) -> Any:
        return (hidden_states,)


class LayerOf56(torch.nn.Module):
    def forward(self, hidden_states: Any, **rest: Any) -> Any:
        return hidden_states


@pytest.mark.parametrize("layer", [LayerOf50(), LayerOf56()])
def test_a_layer_of_another_stage_returns_what_the_layer_would(layer: torch.nn.Module) -> None:
    hidden = torch.ones(2, 3, 4)
    assert type(Skipped(layer)(hidden)) is type(layer(hidden))


def qwen3(plan: dict[str, str], of_class: dict[str, str]) -> Any:
    """A model with the plan that a release of Transformers has."""
    with torch.device("meta"):
        config = AutoConfig.for_model("qwen3", num_hidden_layers=1, tie_word_embeddings=False)
        model: Any = AutoModelForCausalLM.from_config(config)
    made: Any = torch.nn.Module.__new__(type("Qwen3", (torch.nn.Module,), {"_tp_plan": of_class}))
    torch.nn.Module.__init__(made)
    made.model, made.lm_head, made.tp_plan = model.model, model.lm_head, plan
    return made


ATTENTION = "model.layers.*.self_attn."
OLD = {f"{ATTENTION}{letter}_proj": "colwise" for letter in "qkv"} | {f"{ATTENTION}o_proj": "rowwise"}


def test_an_older_plan_is_completed_with_the_head_and_the_norms_of_heads() -> None:
    """Without its sum over the ranks the gradient of such a norm would be that of a part of the heads."""
    found = compatibility.transformers_tensor_plan(qwen3(OLD, {"lm_head": "colwise_rep"}))
    norms = dict.fromkeys(
        (f"model.layers.0.self_attn.{letter}_norm" for letter in "qk"), "replicated_with_grad_allreduce"
    )
    assert found == OLD | {"lm_head": "colwise_rep"} | norms


def test_norms_behind_gathered_heads_stay_out() -> None:
    """As in OLMo 2, whose norm sees all heads on every rank."""
    gathered = {pattern: style.replace("colwise", "colwise_rep") for pattern, style in OLD.items()}
    assert compatibility.transformers_tensor_plan(qwen3(gathered, {})) == gathered


def test_no_plan_stays_none() -> None:
    assert compatibility.transformers_tensor_plan(qwen3({}, {})) == {}


@pytest.mark.parametrize(
    "keys",
    [
        ["classifier.weight", "classifier.bias"],  # Transformers 4.57
        {("classifier.bias", torch.Size([2]), torch.Size([3])), ("classifier.weight", (2, 8), (3, 8))},
    ],
    ids=["4.57", "5"],
)
def test_weights_of_another_shape_are_named(keys: Any) -> None:
    found = compatibility.mismatched_names({"mismatched_keys": keys})
    assert found == ["classifier.bias", "classifier.weight"]


@pytest.mark.parametrize("client", ["requests", "httpx", "httpx2"])
def test_errors_of_the_hub_are_those_of_its_client(client: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In httpx a connection that fails is no OSError."""
    from huggingface_hub import errors

    of_client = type("HTTPError", (OSError,) if client == "requests" else (Exception,), {})
    bases = (of_client,) if client == "requests" else (of_client, OSError)
    monkeypatch.setattr(errors, "HfHubHTTPError", type("HfHubHTTPError", bases, {}))
    refused = type("ConnectError", (of_client,), {})
    with pytest.raises(compatibility.hub_failures()):
        raise refused("no route")


def test_a_connection_that_fails_is_a_failure_of_the_hub() -> None:
    """By the client that is installed."""
    from huggingface_hub.errors import HfHubHTTPError

    client: Any = importlib.import_module(HfHubHTTPError.__mro__[1].__module__.partition(".")[0])
    refused = getattr(client, "ConnectError", None) or client.ConnectionError
    assert issubclass(refused, compatibility.hub_failures())
