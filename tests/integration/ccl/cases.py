"""What ranks do. Each case compares oneCCL with gloo on the same numbers, and raises on a difference."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from trainer.backends import ccl

MOVED = (torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.int64, torch.uint8, torch.bool)
SIZES = (1, 1001, 100_003)
Group = Any


class World:
    """The default group runs on oneCCL; `gloo` is the same ranks on gloo."""

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size
        self.gloo = dist.new_group(backend="gloo")
        self.groups: tuple[Group, Group] = (None, self.gloo)

    def random(self, size: int, dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
        """Other numbers on every rank. Halves: their sums are exact in every format."""
        generator = torch.Generator().manual_seed(1000 * seed + self.rank)
        whole = torch.randint(-6, 7, (size,), generator=generator)
        if dtype == torch.bool:
            return whole > 0
        if dtype == torch.uint8:
            return whole.abs().to(dtype)
        return whole.to(dtype) / 2 if dtype.is_floating_point else whole.to(dtype)

    def both(self, body: Callable[[Group], torch.Tensor]) -> torch.Tensor:
        """The result on oneCCL, which must be gloo's, bit for bit."""
        over_ccl, over_gloo = (body(group) for group in self.groups)
        assert over_ccl.dtype == over_gloo.dtype
        assert torch.equal(over_ccl, over_gloo), (over_ccl, over_gloo)
        return over_ccl


def run(case: str, rank: int, size: int, cache: Path) -> None:
    ccl.register(cache, rank, size)
    timeout = timedelta(seconds=3 if case == "timeout" else 60)
    dist.init_process_group("ccl", rank=rank, world_size=size, timeout=timeout)
    globals()[case](World(rank, size))


def all_reduce(world: World) -> None:
    op = dist.ReduceOp
    for size in SIZES:
        for dtype in MOVED:
            for kind in (op.SUM, op.MAX, op.MIN):
                if dtype == torch.bool and kind != op.MAX:
                    continue

                def reduced(group: Group, size: int = size, dtype: Any = dtype, kind: Any = kind) -> Any:
                    tensor = world.random(size, dtype)
                    dist.all_reduce(tensor, op=kind, group=group)
                    return tensor

                world.both(reduced)
    mean, total = world.random(1000, torch.float32), world.random(1000, torch.float32)
    dist.all_reduce(mean, op=op.AVG)
    dist.all_reduce(total, group=world.gloo)
    assert torch.equal(mean, total / world.size)
    product = torch.full((5,), 2, dtype=torch.int64)
    dist.all_reduce(product, op=op.PRODUCT)
    assert product.tolist() == [2**world.size] * 5
    imaginary = torch.tensor([complex(1, world.rank)])
    dist.all_reduce(imaginary)
    assert imaginary.tolist() == [complex(world.size, sum(range(world.size)))]
    flags = torch.tensor([world.rank == 0, False])
    dist.all_reduce(flags)
    assert flags.tolist() == [True, False]


def strided(world: World) -> None:
    """A tensor whose memory has gaps is reduced, and its gaps are left alone."""
    whole = torch.ones(6, 4)
    dist.all_reduce(whole[:, 1])
    assert whole[:, 1].eq(world.size).all()
    assert whole[:, [0, 2, 3]].eq(1).all()
    rows = torch.full((4, 6), float(world.rank)).t()
    dist.broadcast(rows, world.size - 1)
    assert rows.eq(world.size - 1).all()


def moves(world: World) -> None:
    """Broadcast, gathers, scatters and exchanges of every type."""
    last = world.size - 1
    for size in SIZES:
        for dtype in MOVED:
            world.both(lambda group, s=size, d=dtype: _broadcast(world, group, s, d, last))
            world.both(lambda group, s=size, d=dtype: _all_gather(world, group, s, d))
            world.both(lambda group, s=size, d=dtype: _all_gather_flat(world, group, s, d))
            world.both(lambda group, s=size, d=dtype: _gather(world, group, s, d, last))
            world.both(lambda group, s=size, d=dtype: _scatter(world, group, s, d, last))
            world.both(lambda group, s=size, d=dtype: _all_to_all(world, group, s, d))


def _broadcast(world: World, group: Group, size: int, dtype: torch.dtype, root: int) -> torch.Tensor:
    tensor = world.random(size, dtype)
    dist.broadcast(tensor, root, group=group)
    return tensor


def _all_gather(world: World, group: Group, size: int, dtype: torch.dtype) -> torch.Tensor:
    parts = [torch.empty(size, dtype=dtype) for _ in range(world.size)]
    dist.all_gather(parts, world.random(size, dtype), group=group)
    return torch.stack(parts)


def _all_gather_flat(world: World, group: Group, size: int, dtype: torch.dtype) -> torch.Tensor:
    whole = torch.empty(size * world.size, dtype=dtype)
    dist.all_gather_into_tensor(whole, world.random(size, dtype), group=group)
    return whole


def _gather(world: World, group: Group, size: int, dtype: torch.dtype, root: int) -> torch.Tensor:
    mine = world.rank == root
    parts = [torch.zeros(size, dtype=dtype) for _ in range(world.size)] if mine else None
    dist.gather(world.random(size, dtype), parts, dst=root, group=group)
    return torch.stack(parts) if parts else torch.zeros(0, dtype=dtype)


def _scatter(world: World, group: Group, size: int, dtype: torch.dtype, root: int) -> torch.Tensor:
    parts = [world.random(size, dtype, seed) for seed in range(world.size)] if world.rank == root else None
    tensor = torch.empty(size, dtype=dtype)
    dist.scatter(tensor, parts, src=root, group=group)
    return tensor


def _all_to_all(world: World, group: Group, size: int, dtype: torch.dtype) -> torch.Tensor:
    """Rank a gives rank b (a + b + 1) elements of its tensor."""
    splits = [(world.rank + other) % (size + 1) for other in range(world.size)]
    output = torch.zeros(sum(splits), dtype=dtype)
    dist.all_to_all_single(output, world.random(sum(splits), dtype), splits, splits, group=group)
    return output


def reductions(world: World) -> None:
    """reduce and reduce_scatter; every rank but the root of a reduce keeps its numbers."""
    for size in SIZES:
        for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.int64):
            tensor, total = world.random(size, dtype), world.random(size, dtype)
            dist.reduce(tensor, world.size - 1)
            dist.all_reduce(total, group=world.gloo)
            expected = total if world.rank == world.size - 1 else world.random(size, dtype)
            assert torch.equal(tensor, expected)

            whole = world.random(size * world.size, dtype)
            part, listed = torch.empty(size, dtype=dtype), torch.empty(size, dtype=dtype)
            dist.reduce_scatter_tensor(part, whole)
            dist.reduce_scatter(listed, list(whole.clone().chunk(world.size)))
            dist.all_reduce(whole, group=world.gloo)
            assert torch.equal(part, whole.chunk(world.size)[world.rank])
            assert torch.equal(listed, part)


def coalesced(world: World) -> None:
    """Several tensors in one call, as DDP and FSDP2 use them."""
    group = dist.distributed_c10d._get_default_group()
    tensors = [world.random(size, torch.float32, size) for size in SIZES]
    expected = [world.random(size, torch.float32, size) for size in SIZES]
    group.allreduce_coalesced(tensors, dist.AllreduceCoalescedOptions()).wait()
    for ours, other in zip(tensors, expected, strict=True):
        dist.all_reduce(other, group=world.gloo)
        assert torch.equal(ours, other)
    inputs = [torch.full((n,), float(world.rank)) for n in (3, 5)]
    outputs = [torch.empty(n * world.size) for n in (3, 5)]
    group.allgather_into_tensor_coalesced(outputs, inputs).wait()
    assert outputs[1].view(world.size, 5)[:, 0].tolist() == [float(r) for r in range(world.size)]
    parts = [torch.empty(n) for n in (3, 5)]
    group.reduce_scatter_tensor_coalesced(parts, outputs).wait()
    assert parts[0].eq(world.rank * world.size).all()


def messages(world: World) -> None:
    """A ring, and a pattern in which the ranks send unequally often, before and after a collective."""
    right, left = (world.rank + 1) % world.size, (world.rank - 1) % world.size
    for round_ in range(5):
        received = torch.empty(100_003)
        requests = [dist.isend(torch.full((100_003,), float(world.rank)), right), dist.irecv(received, left)]
        for request in requests:
            request.wait()
        assert received.eq(left).all()
        if world.rank == 0:
            dist.send(torch.tensor([round_]), 1)
        if world.rank == 1:
            number = torch.empty(1, dtype=torch.int64)
            dist.recv(number, 0)
            assert number.item() == round_
        total = torch.ones(3)
        dist.all_reduce(total)
        assert total.eq(world.size).all()


def sub_groups(world: World) -> None:
    """Disjoint groups at once, overlapping ones in another order on every rank, and one that ends early."""
    halves = [list(range(world.size // 2)), list(range(world.size // 2, world.size))]
    groups = [dist.new_group(ranks) for ranks in halves]
    mine = 0 if world.rank in halves[0] else 1
    tensor = torch.ones(1000)
    dist.all_reduce(tensor, group=groups[mine])
    assert tensor.eq(len(halves[mine])).all()

    whole = dist.new_group(list(range(world.size)))
    order = [None, whole] if world.rank % 2 else [whole, None]
    pairs = [(torch.full((50_000,), float(i)), group) for i, group in enumerate(order)]
    works = [dist.all_reduce(tensor, group=group, async_op=True) for tensor, group in pairs]
    for work in works:
        work.wait()
    dist.destroy_process_group(whole)
    dist.all_reduce(tensor)
    assert tensor.eq(sum(len(half) ** 2 for half in halves)).all()


def asynchronous(world: World) -> None:
    """Many operations under way; the future of each holds its result."""
    tensors = [torch.full((10_000,), float(i + world.rank)) for i in range(50)]
    works = [dist.all_reduce(tensor, async_op=True) for tensor in tensors]
    doubled = works[-1].get_future().then(lambda done: done.value()[0] * 2)
    for i, work in reversed(list(enumerate(works))):
        work.wait()
        assert work.is_completed()
        assert tensors[i].eq(sum(i + rank for rank in range(world.size))).all()
    assert torch.equal(doubled.wait(), tensors[-1] * 2)


def timeout(world: World) -> None:
    """A rank that does not come is noticed by the others; the failure says what waited."""
    if world.rank == 0:
        with pytest.raises(RuntimeError, match="ccl:all_reduce timed out after 3000 ms"):
            dist.all_reduce(torch.ones(4))
    dist.barrier(group=world.gloo)


def refusals(world: World) -> None:
    """What the backend cannot do is said before anything is sent."""
    attempts: list[tuple[str, Callable[[], Any]]] = [
        ("cannot reduce UInt16", lambda: dist.all_reduce(torch.ones(2, dtype=torch.uint16))),
        ("reduces by SUM", lambda: dist.all_reduce(torch.ones(2, dtype=torch.int64), op=dist.ReduceOp.BXOR)),
        ("AVG needs", lambda: dist.all_reduce(torch.ones(2, dtype=torch.int64), op=dist.ReduceOp.AVG)),
        ("have no tags", lambda: dist.send(torch.ones(1), (world.rank + 1) % world.size, tag=3)),
    ]
    for words, attempt in attempts:
        with pytest.raises((RuntimeError, NotImplementedError), match=words):
            attempt()
    dist.barrier()


def _model(seed: int) -> torch.nn.Module:
    torch.manual_seed(seed)
    return torch.nn.Sequential(
        torch.nn.Linear(32, 256), torch.nn.GELU(), torch.nn.LayerNorm(256), torch.nn.Linear(256, 4)
    )


def _batch(world: World, step: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(100 * step + world.rank)
    x = torch.randn(8, 32, generator=generator)
    return x, torch.randint(0, 4, (8,), generator=generator)


def _train(world: World, module: torch.nn.Module) -> torch.Tensor:
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-2)
    for step in range(10):
        x, y = _batch(world, step)
        torch.nn.functional.cross_entropy(module(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()
    return torch.cat([p.detach().reshape(-1) for p in module.parameters()])


def ddp(world: World) -> None:
    """Ten steps in several buckets: the same weights as over gloo, from rank 0's initial ones."""
    over = [
        _train(world, DistributedDataParallel(_model(world.rank), process_group=group, bucket_cap_mb=0.01))
        for group in world.groups
    ]
    assert (over[0] - over[1]).abs().max() < 1e-6
    assert not torch.equal(over[0], torch.cat([p.reshape(-1) for p in _model(0).parameters()]))


def fsdp(world: World) -> None:
    """FSDP2 over oneCCL: the weights of DDP over gloo."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    model = fully_shard(_model(0), mesh=init_device_mesh("cpu", (world.size,)))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for step in range(10):
        x, y = _batch(world, step)
        torch.nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert next(model.parameters()).to_local().numel() == 32 * 256 // world.size
    ours = torch.cat([p.full_tensor().detach().reshape(-1) for p in model.parameters()])
    other = _train(world, DistributedDataParallel(_model(0), process_group=world.gloo))
    assert (ours - other).abs().max() < 1e-5


def zero(world: World) -> None:
    """DeepSpeed ZeRO-2 over oneCCL: the weights of DDP over gloo."""
    from deepspeed import comm, init_distributed, initialize
    from deepspeed.ops import __compatible_ops__

    __compatible_ops__["deepspeed_shm_comm"] = False  # serves inference, and would be compiled here
    if not comm.is_initialized():
        init_distributed(dist_init_required=False)
    config = {
        "train_micro_batch_size_per_gpu": 8,
        "zero_optimization": {"stage": 2},
        "gradient_clipping": 0.0,
        "zero_allow_untested_optimizer": True,
    }
    model = _model(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    engine, *_ = initialize(model=model, optimizer=optimizer, config=config, dist_init_required=False)
    for step in range(10):
        x, y = _batch(world, step)
        engine.backward(torch.nn.functional.cross_entropy(engine(x), y))
        engine.step()
    ours = torch.cat([p.detach().reshape(-1) for p in model.parameters()])
    other = _train(world, DistributedDataParallel(_model(0), process_group=world.gloo))
    assert (ours - other).abs().max() < 1e-5


def leave_open(world: World) -> None:
    """Ends without destroying anything, with an operation just finished."""
    dist.all_reduce(torch.ones(100_000))


def leave_closed(world: World) -> None:
    """Ends as torch asks for it."""
    dist.all_reduce(torch.ones(100_000))
    dist.destroy_process_group()


def leave_busy(world: World) -> None:
    """Rank 0 ends while it waits for an operation to which the others do not come."""
    if world.rank == 0:
        dist.all_reduce(torch.ones(100), async_op=True)
    os.environ["GALLEY_TEST_ENDED"] = "1"
