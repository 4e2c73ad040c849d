"""Libraries that ranks load before all others: found, refused, planned, and seen in a process."""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from galley.config.rules.recipe import recipe_problems
from galley.errors import ConfigError
from galley.schema import Recipe
from galley.spec import ClusterFacts, CodeSnapshot, RunSpec
from galley.strategy.layout import declared_facts, resolve_layout
from galley.system.machine import probe
from galley.system.preload import (
    LIBRARIES,
    find_libraries,
    inherited_preload,
    library_folders,
    loaded_problems,
)
from launchers.common.worker_command import rank_environment
from tests.support import make_recipe, not_available, run_process

HERE = ClusterFacts("here", 0, 0.0, 4, 8.0)


def recipe(*preload: str, **env: str) -> Recipe:
    return make_recipe(batch={"global_size": 8}, cluster={"preload": list(preload)}, launcher={"env": env})


def messages(made: Recipe, facts: ClusterFacts) -> list[str]:
    with pytest.raises(ConfigError) as refused:
        resolve_layout(made, facts)
    return [f"{problem.where}: {problem.what}; {problem.hint}" for problem in refused.value.problems]


def test_the_allocator_comes_first_then_what_was_there_before(tmp_path: Path) -> None:
    for name in ("libiomp5.so", "libtcmalloc.so.4", "libtcmalloc_minimal.so.4", "other.so", "mine.so"):
        (tmp_path / name).touch()
    found = find_libraries([tmp_path / "absent", tmp_path])
    assert [Path(path).name for path in found] == ["libtcmalloc.so.4", "libiomp5.so"]
    mine, other = str(tmp_path / "mine.so"), str(tmp_path / "other.so")
    before = inherited_preload({"LD_PRELOAD": f"{other} libnowhere.so:{tmp_path}/absent.so"})
    facts = replace(HERE, libraries=found, preloaded=before)
    layout = resolve_layout(recipe(mine, "libiomp5", "tcmalloc"), facts)
    assert layout.preload == (*found, mine, other)
    assert resolve_layout(recipe(), facts).preload == ()
    spec = RunSpec(recipe(mine), layout, CodeSnapshot("0" * 64, None, False), {}, "3.11")
    assert rank_environment(spec, tmp_path)["LD_PRELOAD"] == ":".join(layout.preload)
    alone = replace(spec, layout=replace(layout, preload=()))
    assert "LD_PRELOAD" not in rank_environment(alone, tmp_path)


def test_what_is_missing_is_refused_by_name() -> None:
    first, second = messages(recipe("tcmalloc", "/no/such.so"), HERE)
    assert first.startswith("cluster.preload=tcmalloc: here has no libtcmalloc.so.4 or ")
    assert "apt-get install" in first
    assert second.startswith("cluster.preload=/no/such.so: there is no such file on here")
    elsewhere = declared_facts(recipe())
    assert resolve_layout(recipe("/opt/x.so"), elsewhere).preload == ("/opt/x.so",)
    (named,) = messages(recipe("libiomp5"), elsewhere)
    assert "cannot be seen from here; name the file as the nodes have it: 'cluster.preload=[" in named


def test_a_wrong_name_and_a_second_word_are_problems() -> None:
    found = [problem.where for problem in recipe_problems(recipe("tcmaloc", "/a b.so", LD_PRELOAD="/x.so"))]
    assert {"cluster.preload=tcmaloc", "cluster.preload=/a b.so", "launcher.env.LD_PRELOAD"} <= set(found)
    (wrong,) = [p for p in recipe_problems(recipe("tcmaloc")) if p.where == "cluster.preload=tcmaloc"]
    assert wrong.hint.startswith("did you mean 'tcmalloc'?")


def test_one_allocator_is_enough() -> None:
    found = [problem.what for problem in recipe_problems(recipe("jemalloc", "libiomp5", "tcmalloc"))]
    assert any("tcmalloc and jemalloc: one process has one allocator" in what for what in found)
    assert not list(recipe_problems(recipe("jemalloc", "libiomp5")))


def test_jemalloc_allocates_where_it_is_asked_for() -> None:
    """jemalloc's own statistics are the witness."""
    paths = [p for p in find_libraries(library_folders(os.environ)) if Path(p).name in LIBRARIES["jemalloc"]]
    if not paths:
        not_available("libjemalloc.so.2", "cluster.preload=jemalloc")
    layout = resolve_layout(recipe("jemalloc"), replace(HERE, libraries=(*paths, "/x/libiomp5.so")))
    assert layout.preload == (paths[0],)
    env = {"LD_PRELOAD": ":".join(layout.preload), "MALLOC_CONF": "stats_print:true"}
    done = run_process([sys.executable, "-P", "-c", "print('done')"], env=env)
    assert done.out == "done\n"
    assert "Begin jemalloc statistics" in done.err


def test_a_process_knows_what_it_has_loaded(tmp_path: Path) -> None:
    """With a real library, by a name that points to it, and with one that is none."""
    real = next(path for path in library_folders(os.environ) if list(path.glob("libstdc++.so.6")))
    link, broken = tmp_path / "linked.so", tmp_path / "broken.so"
    shutil.copy(real / "libstdc++.so.6", tmp_path / "own.so")
    link.symlink_to(tmp_path / "own.so")
    broken.write_text("no library")
    script = (
        f"from galley.system.preload import *; print(list(loaded_problems(['{link}', '{broken}'], 'n1')))"
    )
    done = run_process([sys.executable, "-P", "-c", script], env={"LD_PRELOAD": f"{link}:{broken}"})
    assert f"{broken} was not loaded on n1" in done.out
    assert f"{link} was not" not in done.out
    assert not list(loaded_problems((), "n1"))
    assert probe().libraries == find_libraries(library_folders(os.environ))
