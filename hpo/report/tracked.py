"""The summary of a sweep at the tracker that its trials report to."""

from __future__ import annotations

from galley.trackers import track_study
from hpo.study.state import Study
from hpo.study.values import ParetoFront


def track(study: Study, found: ParetoFront) -> None:
    """One run of the trials' group: all trials and the front as tables, the winner as summary.

    The columns are parameters and objectives, which is what parallel coordinates are drawn from.
    """
    params = [dim.key for dim in study.space]
    metrics = [objective.metric for objective in found.objectives]
    columns = ["trial", "state", *params, *metrics]
    shown = [found.stands_for(trial.number) for trial in found.trials]
    rows = {
        trial.number: [
            *(trial.number, trial.state),
            *(str(trial.params[name]) if name in trial.params else None for name in params),
            *(trial.values.get(name) for name in metrics),
        ]
        for trial in shown
    }
    tracking = track_study(study.begun.recipe, study.name, study.folder.root)
    tracking.table("trials", columns, list(rows.values()))
    tracking.table("front", columns, [rows[number] for number in found.front])
    summary: dict[str, float | int | str] = {"trials": len(found.trials), "front": len(found.front)}
    if found.chosen is not None:
        summary |= {"chosen": found.chosen, **shown[found.chosen].values}
    tracking.finish(summary, succeeded=True)
