"""What `strategy.engine_options` may hold for each engine."""

from __future__ import annotations

from galley.interop.reading import Keep

# Blocks that hold kept options beside keys that the recipe has words for.
MIXED = ("optimizer", "zero_optimization")


def known_options(engine: str) -> tuple[str, ...]:
    """Top-level names that the engine takes."""
    if engine == "fsdp":
        return ("forward_prefetch",)
    if engine == "torch":
        return ()
    from galley.interop.deepspeed_keys import TOP

    return (*(name for name, entry in TOP.items() if isinstance(entry, Keep)), *MIXED)
