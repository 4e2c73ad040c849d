"""Report the summary of a sweep to the tracker of its trials."""

from __future__ import annotations

from galley.trackers import track_study
from hpo.study.state import Study
from hpo.study.values import ParetoFront


def track(study: Study, front: ParetoFront) -> None:
    """Report one run of the trials' group: all trials and the front as tables, the winner as summary.

    The columns are parameters and objectives, as a plot of parallel coordinates needs them.
    """
    params = [dim.key for dim in study.space]
    metrics = [objective.metric for objective in front.objectives]
    columns = ["trial", "state", *params, *metrics]
    shown = [front.stands_for(trial.number) for trial in front.trials]
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
    tracking.table("front", columns, [rows[number] for number in front.front])
    summary: dict[str, float | int | str] = {"trials": len(front.trials), "front": len(front.front)}
    if front.chosen is not None:
        summary |= {"chosen": front.chosen, **shown[front.chosen].values}
    tracking.finish(summary, succeeded=True)
