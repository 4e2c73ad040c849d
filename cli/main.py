"""The command line: options, the verb, the overrides; and the one place where errors become exit codes."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from importlib import import_module

from cli.options import Options, parse_arguments
from galley import __version__
from galley.counting import counted
from galley.errors import INTERRUPTED_EXIT_CODE, ConfigError, GalleyError
from galley.paths import command
from galley.system.os_errors import of_the_disk

# verb -> (module:function, what it does). Modules are imported when their verb is used.
VERBS: dict[str, tuple[str, str]] = {
    "run": ("cli.run:run", "compose, seal, plan, submit and follow a run (the default)"),
    "sweep": ("cli.sweep:sweep", "runs over a search space: `run` with hpo=optuna, random or grid"),
    "plan": ("cli.plan:plan", "everything but submit: prints exactly what `run` would start"),
    "resume": (
        "cli.run:resume",
        "continue RUN from its last complete checkpoint; cluster.KEY=VALUE, or hpo.trials=N, may differ",
    ),
    "join": ("cli.run:join", "start the ranks of machine NODE of RUN (cluster.nodes > 1)"),
    "status": ("cli.jobs:status", "where RUN is"),
    "logs": ("cli.jobs:logs", "the output of RUN (-f to follow, --rank N)"),
    "cancel": ("cli.jobs:cancel", "end RUN"),
    "list": ("cli.jobs:list_runs", "all runs"),
    "pareto": (
        "cli.sweep:pareto",
        "front, knee and winner of STUDY; --promote NAME: as a recipe",
    ),
    "eval": ("cli.evaluate:evaluate", "measure RUN or the folder of a MODEL on data=…"),
    "recipes": ("cli.recipes:recipes", "ls | show NAME | cp NAME FILE | validate [NAME]"),
    "explain": (
        "cli.explain:explain",
        "the value of KEY and every file:line or override that set it",
    ),
    "estimate": ("cli.estimate:estimate", "memory a rank needs, by strategy"),
    "strategy": (
        "cli.strategy:strategy",
        "export --format deepspeed|accelerate|fsdp: the strategy as a file of theirs",
    ),
    "parity": (
        "cli.parity:parity",
        "one recipe under several strategies: strategies=ddp,zero2,fsdp steps=20",
    ),
    "checkpoint": (
        "cli.checkpoint:checkpoint",
        "ls RUN | verify RUN_OR_CHECKPOINT | convert CHECKPOINT OUT",
    ),
    "verify": (
        "cli.compare:verify",
        "drift of code, configuration, packages and data since RUN was sealed",
    ),
    "diff": ("cli.compare:diff", "what differs between RUN_A and RUN_B"),
    "compare": (
        "cli.compare:compare",
        "speed and quality of RUN_B as ratios of RUN_A's; refuses what cannot be compared",
    ),
    "doctor": ("cli.doctor:doctor", "what this machine can do"),
    "init": ("cli.init:init", "write a project of your own into the new folder DIR"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code (`galley.errors`)."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    options = Options(json="--json" in words)
    try:
        verb, words, options = parse_arguments(words, VERBS)
        if options.help:
            print(help_text())
            return 0
        if options.version:
            print(f"galley {__version__}")
            return 0
        module, function = VERBS[verb][0].split(":")
        return int(getattr(import_module(module), function)(words, options))
    except GalleyError as error:
        return report(error, options)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED_EXIT_CODE
    except BrokenPipeError:  # `galley list | head`: the reader has what it wanted
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if (told := of_the_disk(error)) is None:
            raise
        return report(told, options)


def report(error: GalleyError, options: Options) -> int:
    """The message on standard error; with `--json` also as the last line of standard output."""
    if isinstance(error, ConfigError):
        count = len(error.problems)
        head = counted(count, "problem")
        print(f"galley: {head}, nothing was started", file=sys.stderr)
        for problem in error.problems:
            print(f"  {problem}".replace("\n", "\n  "), file=sys.stderr)
    else:
        print(f"galley: {error}", file=sys.stderr)
    if options.json:
        found = error.problems if isinstance(error, ConfigError) else ()
        problems = [{"where": one.where, "what": one.what, "hint": one.hint} for one in found]
        print(json.dumps({"error": str(error), "exit_code": error.exit_code, "problems": problems}))
    return error.exit_code


def help_text() -> str:
    """What `--help` prints."""
    width = max(map(len, VERBS))
    verbs = "\n".join(f"  {name:<{width}}  {text}" for name, (_, text) in VERBS.items())
    return f"""\
{command()} [VERB] [OPTION …] [KEY=VALUE …]

{verbs}

  --json             one JSON object on the last line of standard output
  --config-dir DIR   a folder with your own recipes/ and config groups (may be given again)
  --format NAME      of `strategy export`: deepspeed | accelerate | fsdp
  --promote NAME     `pareto` writes the winner as recipes/NAME.yaml
  --optimizer        `checkpoint convert` writes the optimizer's moments too
  --help, --version

  recipe=NAME profile=full|small strategy=NAME    choose; `recipes` lists the recipes
  optim.lr=3e-5 batch.global_size=64 …            set; `explain KEY` says where a value comes from
  run_dir=DIR detach=true                         where the run is kept; do not wait for it

Exit codes: 0 done, 2 configuration, 3 submission, 4 the run failed, 5 cancelled, 130 interrupted."""
