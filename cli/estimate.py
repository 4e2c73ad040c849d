"""`estimate`: memory a rank needs under each strategy."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

from cli.options import Options
from galley.config.compose import compose_recipe
from galley.errors import ConfigError, Problem
from galley.paths import CONF
from galley.strategy.auto import AUTO
from galley.strategy.estimate import estimate_memory
from galley.strategy.layout import layout_problems, resolve_layout


def estimate(words: Sequence[str], options: Options) -> int:
    """Print GiB a rank by strategy for the composed recipe.

    Strategies that the ranks of the recipe's machines cannot carry are named with the reason.
    """
    chosen = [word for word in words if not word.startswith("strategy=")]
    from launchers import make_launcher

    asked = compose_recipe(words, options.config_dirs)  # what is wrong with the recipe itself is told first
    facts, rows, impossible = make_launcher(asked.launcher.kind).facts(asked, after=None), {}, {}
    for name in sorted(file.stem for file in (CONF / "strategy").glob("*.yaml") if file.stem != AUTO):
        try:
            recipe = compose_recipe([*chosen, f"strategy={name}"], options.config_dirs)
        except ConfigError as error:
            impossible[name] = error.problems[0].what
            continue
        problems = layout_problems(recipe, facts)
        if problems:
            impossible[name] = problems[0].what
            continue
        layout = resolve_layout(recipe, facts)
        result = estimate_memory(recipe, layout)
        if result is None:
            what = "the model's size is not known"
            raise ConfigError(Problem("model.num_parameters", what, "set it to have an estimate"))
        rows[name] = {**asdict(result), "precision": layout.precision, "ranks": layout.world_size}
    if options.json:
        print(json.dumps(rows))
        return 0
    parts = "".join(f"{name:>9}" for name in ("params", "grads", "optim"))
    places = f"{'activations':>13}{'logits':>8}{'host':>8}{'drive':>8}"
    print(f"{'strategy':<16}{'ranks':>6}{'precision':>11}{parts}{'total GiB':>11}{places}")
    for name, row in rows.items():
        sizes = "".join(f"{row[part]:>9.2f}" for part in ("params_gib", "grads_gib", "optimizer_gib"))
        kept, logits = _known(row["activations_gib"]), _known(row["logits_gib"])
        more = f"{kept:>13}{logits:>8}{row['host_gib']:>8.2f}{row['drive_gib']:>8.2f}"
        print(f"{name:<16}{row['ranks']:>6}{row['precision']:>11}{sizes}{row['total_gib']:>11.2f}{more}")
    for name, reason in impossible.items():
        print(f"{name:<16}not here: {reason}")
    print("activations and logits come on top: at most about so much at batches of the longest samples")
    return 0


def _known(gib: float | None) -> str:
    return "?" if gib is None else f"{gib:.2f}"
