"""`run` and `resume`."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence

from cli.options import Options
from cli.prepare import ask, prepare_run, refuse_missing_packages
from galley.errors import ConfigError, Problem
from galley.paths import command_of
from galley.run.relayout import move, with_cluster
from galley.run.seal import snapshot_sha256, write_snapshot
from galley.system.os_errors import whole, writing


def run(words: Sequence[str], options: Options) -> int:
    """Seal the run into its folder, submit it, and follow it unless `detach=true`."""
    from launchers.lifecycle.launch import launch

    asked = ask(words, options)
    if asked.recipe.hpo.kind != "none":
        from cli.sweep import start_sweep

        return start_sweep(asked, options)
    refuse_missing_packages(asked.recipe)
    run = prepare_run(asked, options)
    if run.choice is not None:
        print(f"strategy=auto: {run.choice.reason}", file=sys.stderr)
    for warning in run.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    folder = run.prepared.folder
    with writing(f"run_dir={folder.root}"), whole(folder.root):
        write_snapshot(run.recipe, folder)
        folder.write_spec(run.spec)
    return launch(run.prepared, detach=run.recipe.detach, json=options.json)


def join(words: Sequence[str], options: Options) -> int:
    """Start the ranks of another machine of a run that was started on the first one."""
    from launchers.lifecycle.join import join as join_run
    from launchers.lifecycle.queries import find_run

    if len(words) != 2 or not words[1].isdigit():
        hint = "join RUN NODE, as the command on the first machine says"
        raise ConfigError(Problem("join", "takes a run and the number of this machine", hint))
    return join_run(find_run(words[0], options.root), int(words[1]))


def resume(words: Sequence[str], options: Options) -> int:
    """Continue a run from its last complete checkpoint, with its own sealed recipe and code.

    `cluster.*` may differ: the global batch stays, its split follows from the ranks.
    """
    from hpo.study.folder import means_study
    from launchers import make_launcher
    from launchers.lifecycle.attempt_store import last_handle
    from launchers.lifecycle.launch import launch
    from launchers.lifecycle.prepare import prepare
    from launchers.lifecycle.queries import find_run, run_state

    if not words or any("=" not in word for word in words[1:]):
        hint = "resume RUN, its folder or its id (see `list`), and cluster.KEY=VALUE; of a sweep hpo.trials=N"
        raise ConfigError(Problem("resume", "takes one run", hint))
    if means_study(words[0], options.root):
        from cli.sweep import resume_study

        return resume_study(words, options)
    folder = find_run(words[0], options.root)
    spec = folder.read_spec()
    state = run_state(folder)
    if state == "succeeded":
        hint = "there is nothing left to do; start a new run to train longer"
        if spec.recipe.train.stop_at_step is not None:
            hint = f"go on in a new run: checkpoint.resume_from={words[0]} train.stop_at_step=null"
        raise ConfigError(Problem(words[0], "has succeeded already", hint))
    if state in ("queued", "running"):
        raise ConfigError(Problem(words[0], f"is {state}", f"follow it with `logs {words[0]} -f`"))
    if snapshot_sha256(folder) != spec.code.sha256:
        hint = "the sealed code is gone; start a new run instead"
        raise ConfigError(Problem(str(folder.code), "was changed after the run was sealed", hint))
    if folder.spec_sha256() != spec.sha256:
        own = f"{command_of(folder.code)} resume {shlex.quote(str(folder.root))}"
        what = "was sealed by another version of Galley, which names its keys otherwise"
        raise ConfigError(Problem(words[0], what, f"resume it with its own code: {own}"))
    last = last_handle(folder)
    recipe = with_cluster(spec.recipe, words[1:])
    refuse_missing_packages(recipe)
    facts = make_launcher(recipe.launcher.kind).facts(recipe, folder)
    spec = spec if recipe == spec.recipe else move(spec, recipe, facts)
    attempt = 1 if last is None else last.attempt + 1
    return launch(prepare(spec, folder, facts, attempt), json=options.json)
