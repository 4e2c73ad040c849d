"""What a site asks of sbatch and srun in its own way, and what may not be asked besides the recipe."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from galley.config.compose import compose_recipe
from galley.errors import ConfigError
from galley.schema import Checkpoint, Cluster, Data
from galley.schema.types import minutes_of
from galley.spec import RunSpec
from tests.unit.launchers.slurm.bench import Bench, make_spec_on, plan_on

RUN = Path("/runs/a")
GPUS = Cluster(gpus_per_node=2)


def script(cluster: Cluster | None = None, **slurm: Any) -> str:
    return plan_on(RUN, make_spec_on(cluster=cluster, **slurm)).files["job.sh"]


@pytest.mark.parametrize("mount", ["/data", "/a:/b,/c:/d", ":/b", "/a:"])
def test_mounts_are_source_and_target(mount: str) -> None:
    with pytest.raises(ConfigError, match="is no mount"):
        script(container_image="i.sif", container_mounts=["/x:/y:ro", mount])


@pytest.mark.parametrize(
    ("runtime", "options", "mounts", "home", "is_seen"),
    [
        ("pyxis", [], [], False, False),
        ("pyxis", [], ["{data}:{data}"], False, True),
        ("pyxis", [], ["{root}:{root}:ro"], False, True),
        ("pyxis", [], ["{data}:/data"], False, False),
        ("pyxis", [], ["{data}-2:{data}-2"], False, False),
        ("pyxis", [], [], True, False),
        ("pyxis", ["--container-mount-home"], [], True, True),
        ("pyxis", ["--container-mount-home"], [], False, False),
        ("apptainer", [], [], False, False),
        ("apptainer", [], [], True, True),
        ("singularity", ["--no-home"], [], True, False),
        ("apptainer", ["--containall"], [], True, False),
        ("apptainer", ["--bind", "{root}"], [], False, True),
    ],
)
def test_what_the_ranks_read_is_mounted(
    runtime: str, options: list[str], mounts: list[str], home: bool, is_seen: bool,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Apptainer's guide: the home folder is mounted by default; Pyxis' README: only if it is asked for."""
    data = tmp_path / "data"
    data.mkdir()
    monkeypatch.setenv("HOME", str(tmp_path if home else tmp_path / "home"))
    options, mounts = (
        [text.format(data=data, root=tmp_path) for text in texts] for texts in (options, mounts)
    )
    slurm = {"container_image": "i.sif", "container_runtime": runtime}
    spec = make_spec_on(container_options=options, container_mounts=mounts, **slurm)
    spec = replace(spec, recipe=replace(spec.recipe, data=Data(path=str(data))))
    if is_seen:
        assert plan_on(RUN, spec).files["job.sh"]
        return
    with pytest.raises(ConfigError) as caught:
        plan_on(RUN, spec)
    assert str(caught.value.problems[0]).startswith(f"data.path={data}: is not mounted in the container")
    assert f"add '{data}:{data}'" in caught.value.problems[0].hint


def test_a_checkpoint_is_mounted_and_what_only_the_image_has_is_not_asked_for(tmp_path: Path) -> None:
    spec = make_spec_on(container_image="i.sif")
    here = replace(spec.recipe, checkpoint=Checkpoint(resume_from=str(tmp_path)))
    with pytest.raises(ConfigError, match=f"checkpoint.resume_from={tmp_path}: is not mounted"):
        plan_on(RUN, replace(spec, recipe=here))
    image = replace(spec.recipe, model=replace(spec.recipe.model, name="/opt/models/of-the-image"))
    assert plan_on(RUN, replace(spec, recipe=image)).files
    nothing = make_spec_on()
    outside = replace(nothing.recipe, data=Data(path=str(tmp_path)))
    assert plan_on(RUN, replace(nothing, recipe=outside)).files


def test_a_signal_comes_at_most_65535_seconds_before_the_limit() -> None:
    """sbatch(1): "sig_time must have an integer value between 0 and 65535"."""
    assert "#SBATCH --signal=B:USR1@65535\n" in script(save_lead_s=65_535)
    with pytest.raises(ConfigError, match="save_lead_s: 65536 s are more than sbatch takes"):
        script(save_lead_s=65_536)


def test_a_directive_among_the_lines_of_bash_is_refused() -> None:
    """sbatch(1): it stops to read directives at the first line that is no comment."""
    with pytest.raises(ConfigError, match="sbatch would not read it there"):
        script(setup=["module load cuda", "  #SBATCH --time=5"])
    assert "# a comment\n" in script(setup=["# a comment"])


def asked_for(text: str, word: str) -> list[str]:
    return [line.removeprefix("#SBATCH ") for line in text.splitlines() if f"#SBATCH --{word}" in line]


@pytest.mark.parametrize(
    ("slurm", "line"),
    [
        ({}, "--gpus-per-node=2"),
        ({"gpu_type": "a100"}, "--gpus-per-node=a100:2"),
        ({"gpu_request": "gres"}, "--gres=gpu:2"),
        ({"gpu_request": "gres", "gpu_type": "3g.20gb"}, "--gres=gpu:3g.20gb:2"),
        ({"gpu_request": "gpus-per-task", "gpu_type": "h100"}, "--gpus-per-task=h100:2"),
        ({"gpu_request": "none"}, None),
        ({"gpu_request": "none", "directives": ["--gres=gpu:v100:1,nvme:1"]}, "--gres=gpu:v100:1,nvme:1"),
        ({"directives": ["--gres=nvme:1"]}, "--gpus-per-node=2"),
    ],
)
def test_gpus_are_asked_for_as_the_site_wants(slurm: dict[str, Any], line: str | None) -> None:
    found = [*asked_for(script(GPUS, **slurm), "gpus"), *asked_for(script(GPUS, **slurm), "gres=gpu")]
    assert found == ([line] if line else [])


@pytest.mark.parametrize(
    ("cluster", "slurm", "said"),
    [
        (GPUS, {"gpu_type": "a100:4"}, "is no type of GPU"),
        (GPUS, {"gpu_type": "a100", "gpu_request": "none"}, "gpu_request is none"),
        (None, {"gpu_type": "a100"}, "the ranks need none"),
        (Cluster(memory_gib_per_node=0.0005), {}, "less than 1 MiB"),
    ],
)
def test_what_would_mean_nothing_or_all_is_refused(
    cluster: Cluster | None, slurm: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        script(cluster, **slurm)


@pytest.mark.parametrize(
    ("option", "instead"),
    [
        ("--exclude=node1", "launcher.slurm.exclude"),
        ("--cpus-per-task=2", "cluster.cpus_per_node"),
        ("--mem=1G", "cluster.memory_gib_per_node"),
        ("--mem-per-cpu=1G", "cluster.memory_gib_per_node"),
        ("--time=5", "cluster.time_limit_min"),
        ("--tim=5", "cluster.time_limit_min"),  # sbatch takes any beginning that is clear
        ("--partition=x", "launcher.slurm.partition"),
        ("--part=x", "launcher.slurm.partition"),
        ("--account=x", "launcher.slurm.account"),
        ("--qos=x", "launcher.slurm.qos"),
        ("--constraint=x", "launcher.slurm.constraint"),
        ("--reservation=x", "launcher.slurm.reservation"),
        ("--exclusive", "launcher.slurm.exclusive"),
        ("--gpus-per-node=8", "cluster.gpus_per_node"),
        ("--gpu=8", "cluster.gpus_per_node"),
        ("--gres=gpu:8", "cluster.gpus_per_node"),
        ("--nodes=9", "cluster.nodes"),
        ("--ntasks-per-node=2", "cluster.procs_per_node"),
        ("--export=NONE", "launcher.slurm.export"),
        ("--requeue", "launcher.slurm.requeue"),
        ("--signal=USR2", "launcher.slurm.save_lead_s"),
        ("--array=0-3", "hpo.array"),
        ("--dependency=afterok:1", "after=RUN"),
        ("--wrap=id", "leave it out"),
    ],
)
def test_directives_that_would_beat_the_recipe_name_its_key(option: str, instead: str) -> None:
    with pytest.raises(ConfigError) as refused:
        script(Cluster(memory_gib_per_node=4), directives=[option])
    (problem,) = refused.value.problems
    assert (problem.what, repr(option) in problem.where) == ("is set by Galley itself", True)
    assert instead in problem.hint


@pytest.mark.parametrize(
    ("slurm", "said"),
    [
        ({"exclusive": True, "directives": ["--oversubscribe"]}, "is set by Galley itself"),
        ({"directives": ["--mail-type=END", "--mail-type=FAIL"]}, "the last would win"),
        ({"directives": ["#SBATCH hetjob"]}, "'launcher.slurm.constraint=\"[a*2&b*2]\"'"),
        ({"gpu_request": "gres", "directives": ["--gres=nvme:1"]}, "the whole --gres here"),
        ({"srun_options": ["--ntasks=4"]}, "cluster.procs_per_node"),
        ({"srun_options": ["--export=NONE"]}, "launcher.slurm.export"),
        ({"srun_options": ["--gres=none"]}, "cluster.gpus_per_node"),
        ({"srun_options": ["-n4"]}, "is not an option of srun"),
    ],
)
def test_other_options_that_contradict_are_refused(slurm: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        script(**slurm)


@pytest.mark.parametrize(
    "option",
    ["--mem-per-cpu=2G", "--exclusive=user", "--nodelist=node1", "--time-min=5", "--wait-all-nodes=1"],
)
def test_directives_that_contradict_nothing_are_passed_on(option: str) -> None:
    assert f"#SBATCH {option}\n" in script(directives=[option])


def with_forwarded(spec: RunSpec, *names: str) -> RunSpec:
    launcher = replace(spec.recipe.launcher, forward_env=list(names), env={"MINE": "x"})
    return replace(spec, recipe=replace(spec.recipe, launcher=launcher))


@pytest.mark.parametrize(("names", "said"), [((), "NONE"), (("HF_TOKEN", "A"), "A,HF_TOKEN")])
def test_a_job_without_the_shells_environment_still_passes_on_the_runs(
    tmp_path: Path, names: tuple[str, ...], said: str
) -> None:
    """sbatch leaves SLURM_EXPORT_ENV behind, which srun would take for its own --export."""
    spec = with_forwarded(make_spec_on(export="none", srun_options=["--mpi=pmix", "--cpu-bind=v"]), *names)
    assert asked_for(plan_on(RUN, spec).files["job.sh"], "export") == [f"--export={said}"]
    bench = Bench(tmp_path, spec)
    bench.program("srun", 'env -0 >"$BENCH/environment"\n' + bench.leave_result("succeeded"))
    assert bench.run(SLURM_EXPORT_ENV=said) == (0, "")
    (srun,) = bench.calls("srun")
    assert [word for word in srun if word in ("--export=ALL", "--mpi=pmix", "--cpu-bind=v")] == [
        "--export=ALL", "--mpi=pmix", "--cpu-bind=v",
    ]  # fmt: skip
    assert bench.environment()["MINE"] == "x"


@pytest.mark.parametrize(
    ("runtime", "options", "file", "words"),
    [
        ("pyxis", ["--no-container-mount-home"], "job.sh",
         "--container-image=i.sif --container-mounts=/runs/a:/runs/a --no-container-mount-home"),
        ("apptainer", ["--writable-tmpfs"], "node.sh",
         "apptainer exec --bind /runs/a:/runs/a --writable-tmpfs i.sif"),
        ("singularity", [], "node.sh", "singularity exec --bind /runs/a:/runs/a i.sif"),
    ],
)  # fmt: skip
def test_containers_have_options_of_their_own(
    runtime: str, options: list[str], file: str, words: str
) -> None:
    slurm = {"container_image": "i.sif", "container_runtime": runtime, "container_options": options}
    assert words in plan_on(RUN, make_spec_on(**slurm)).files[file]


@pytest.mark.parametrize(
    ("text", "minutes"),
    [
        ("2-12:00:00", 3600), ("1-0", 1440), ("0-01:30", 90), ("0-00:00:01", 1), ("0-00:10:30", 11),
        (90, 90), ("12:30:00", "12:30:00"), ("-1-0", "-1-0"), (None, None),
    ],
)  # fmt: skip
def test_days_are_minutes(text: object, minutes: object) -> None:
    """sbatch(1), --time: days-hours, days-hours:minutes, days-hours:minutes:seconds; seconds round up."""
    assert minutes_of(text) == minutes


def test_a_time_limit_may_be_written_as_slurm_does(tmp_path: Path) -> None:
    words = ["launcher=slurm", "cluster.procs_per_node=1"]
    assert compose_recipe([*words, "cluster.time_limit_min=2-12:00:00"]).cluster.time_limit_min == 3600
    assert TypeAdapter(Cluster).validate_json('{"time_limit_min": 3600}').time_limit_min == 3600
    for wrong in ("12:30:00", "0-00:00", "1 day"):
        with pytest.raises(ConfigError, match="not a valid value"):
            compose_recipe([*words, f"cluster.time_limit_min={wrong}"])
