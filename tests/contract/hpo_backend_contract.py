"""What every backend of a sweep must keep. Its tests subclass `HpoBackendContract` and name its kind."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import ClassVar

from galley.schema import Hpo
from hpo import pareto
from hpo.backends import make_backend
from hpo.backends.base import HpoBackend, Search
from hpo.study.values import Objective, Params, Place, SpaceDim, Trial

# Finite, so that a grid has it too: 48 points.
SPACE = (
    SpaceDim("strategy", "categorical", choices=("ddp", "fsdp")),
    SpaceDim("strategy.wrap", "categorical", choices=("layers", "size"), when={"strategy": ("fsdp",)}),
    SpaceDim("batch.global_size", "int", 8, 64, step=8),
    SpaceDim("optim.betas", "categorical", choices=([0.9, 0.99], [0.9, 0.999])),
)
OBJECTIVES = (Objective("eval/f1", "maximize"), Objective("wall_s", "minimize"))


def ended(number: int, params: Params, place: Place | None = None) -> Trial:
    """How a trial with these parameters ends: every seventh fails, every fifth keeps no bound."""
    size, wraps = params["batch.global_size"], params.get("strategy.wrap") == "size"
    values = {"eval/f1": 1.0 - abs(size - 32) / 64, "wall_s": 100.0 / size + 0.5 * wraps + number / 1000}
    placed = {} if place is None else asdict(place)
    if number % 7 == 3:
        return Trial(number, "failed", params, feasible=False, **placed)
    if number % 5 == 4:
        return Trial(number, "infeasible", params, feasible=False, **placed)
    return Trial(number, "succeeded", params, values, metrics=values, **placed)


class HpoBackendContract:
    """A backend of `kind`, asked and told by hand: no run is started."""

    kind: ClassVar[str]
    objectives: ClassVar[Sequence[Objective]] = OBJECTIVES

    def make(self, folder: Path, trials: Sequence[Trial] = (), dry: bool = False) -> HpoBackend:
        settings = Hpo(kind=self.kind, trials=24)
        return make_backend(
            Search("study", folder, SPACE, tuple(self.objectives), (), 5, settings, dry), trials
        )

    def sweep(self, backend: HpoBackend, begin: int, end: int) -> list[Trial]:
        trials = []
        for number in range(begin, end):
            params = backend.ask(number)
            assert params is not None
            trials.append(ended(number, params, backend.place(number)))
            backend.tell(trials[-1])
        return trials

    def front(self, trials: Sequence[Trial]) -> tuple[int, ...]:
        """By comparing each with each."""
        points = {t.number: pareto.losses(t.values, self.objectives) for t in trials if t.values}
        beaten = {
            a
            for a, own in points.items()
            for other in points.values()
            if other != own and all(o <= m for o, m in zip(other, own, strict=True))
        }
        return tuple(sorted(points.keys() - beaten))

    def test_a_point_has_a_value_of_each_dimension_that_exists_there(self, tmp_path: Path) -> None:
        for trial in self.sweep(self.make(tmp_path), 0, 24):
            active = [dim for dim in SPACE if dim.is_active(trial.params)]
            assert list(trial.params) == [dim.key for dim in active]
            assert trial.params["batch.global_size"] in range(8, 65, 8)
            assert isinstance(trial.params["batch.global_size"], int)
            for dim in (dim for dim in active if dim.choices):
                assert trial.params[dim.key] in dim.choices

    def test_equal_seeds_and_histories_draw_equal_points(self, tmp_path: Path) -> None:
        sweeps = []
        for name in ("a", "b"):
            (tmp_path / name).mkdir()
            sweeps.append([trial.params for trial in self.sweep(self.make(tmp_path / name), 0, 12)])
        assert sweeps[0] == sweeps[1]
        assert len({json.dumps(point) for point in sweeps[0]}) > 1

    def test_best_is_the_front_of_brute_force_and_telling_twice_changes_nothing(self, tmp_path: Path) -> None:
        backend = self.make(tmp_path)
        trials = self.sweep(backend, 0, 16)
        assert backend.best() == self.front(trials)
        for trial in trials:
            backend.tell(trial)
        assert backend.best() == self.front(trials)

    def test_a_new_controller_goes_on_from_the_journal(self, tmp_path: Path) -> None:
        """Its storage may be there or lost; a trial may live, or have ended unheard."""
        first = self.make(tmp_path)
        trials = self.sweep(first, 0, 9)
        params = first.ask(9)
        assert params is not None
        place = first.place(9)
        first.close()
        living = Trial(9, "running", params, **asdict(place))
        (tmp_path / "lost").mkdir()
        end = ended(9, params, place)
        for folder, known in ((tmp_path, living), (tmp_path / "lost", end)):
            again = self.make(folder, [*trials, known])
            again.tell(end)
            assert again.best() == self.front([*trials, end])
            assert again.ask(10) is not None
            again.close()

    def test_a_point_that_is_given_is_taken_note_of(self, tmp_path: Path) -> None:
        backend = self.make(tmp_path)
        (first,) = self.sweep(backend, 0, 1)
        assert backend.ask(1, first.params) == first.params
        backend.tell(replace(ended(1, first.params, backend.place(1)), repeat_of=0))
        assert set(backend.best()) <= {0, 1}
        assert backend.ask(2) is not None

    def test_a_look_whether_it_can_be_expressed_writes_nothing(self, tmp_path: Path) -> None:
        self.make(tmp_path, dry=True).close()
        assert not list(tmp_path.iterdir())
