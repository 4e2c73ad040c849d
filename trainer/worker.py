"""One rank of a run: `python -P -m trainer.worker --run-dir D --sha256 H`.

Reads only the sealed run. Ends with 0, 2 (configuration) or 4 (failed). A rank that fails
leaves `logs/attempt-N/rank-R.error.json`. Environment: the launcher's rank variables
(`trainer.hosts.rank_facts.RANK_VARIABLES`), `GALLEY_ATTEMPT` (default 1), `GALLEY_RESUME` (1 continues from
the last complete checkpoint), and those of `trainer.run.attempt_layout`.
"""

from __future__ import annotations

import time

# Before the other imports: the start of the run includes the time that they take.
STARTED_AT = time.monotonic()

import argparse  # noqa: E402
import logging  # noqa: E402
import os  # noqa: E402
import signal  # noqa: E402
import sys  # noqa: E402
import threading  # noqa: E402
import traceback  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import NoReturn  # noqa: E402

from galley.errors import ConfigError, GalleyError, RunFailedError  # noqa: E402
from galley.rundir import RunFolder  # noqa: E402
from galley.spec import FailureClass, RankError, RunSpec  # noqa: E402
from galley.system.pdeathsig import die_with_parent  # noqa: E402
from galley.trackers import Tracking  # noqa: E402
from trainer.hosts.rank_facts import RankFacts, read_rank_facts  # noqa: E402
from trainer.run.attempt_layout import as_started, with_uploaded  # noqa: E402

END_SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT})


class Reporter:
    """Writes this rank's one error file and ends the process; the first call wins."""

    def __init__(self, folder: RunFolder, attempt: int, rank: int) -> None:
        self._folder = folder
        self._attempt = attempt
        self._rank = rank
        self._lock = threading.Lock()

    def fail(
        self,
        failure_class: FailureClass,
        message: str,
        trace: str,
        exit_code: int,
        tracking: Tracking | None = None,
    ) -> NoReturn:
        """Write the error file, finish the tracker, and end the process."""
        with self._lock:  # never released: a signal during the report must not replace it
            try:
                error = RankError(self._rank, time.time(), failure_class, message, trace)
                self._folder.write_rank_error(self._attempt, error)
                if tracking is not None:
                    tracking.finish({"state": "failed", "failure_class": failure_class}, succeeded=False)
            finally:  # also on a full disk
                leave(exit_code)

    def end_on_signal(self) -> None:
        """Make SIGTERM and SIGINT end the process at once, even inside a collective that hangs.

        A thread waits for them: a Python signal handler would run only when the main thread returns
        from torch.
        """
        # Before other threads start: they inherit the mask, so that only `sigwait` receives the signals.
        signal.pthread_sigmask(signal.SIG_BLOCK, END_SIGNALS)
        threading.Thread(target=self._await_signal, name="signals", daemon=True).start()

    def end_without_host(self, message: str) -> None:
        """End this rank at once, wherever it is, because another host is lost."""
        self.fail("node", message, "", RunFailedError.exit_code)

    def _await_signal(self) -> None:
        name = signal.Signals(signal.sigwait(END_SIGNALS)).name
        self.fail("preempted", f"ended by {name}", "", RunFailedError.exit_code)


def leave(exit_code: int) -> NoReturn:
    """End without the teardown of Python and torch, which may deadlock in the process group."""
    flush()
    os._exit(exit_code)


def flush() -> None:
    """Write everything that was logged to the files."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()


def redirect_output(log_file: Path) -> None:
    """Send the output of this process and its children to `log_file` from now on."""
    redirect_streams(log_file)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")


def redirect_streams(log_file: Path) -> None:
    """Redirect only the file descriptors. Python's logging stays as it is."""
    log_file.parent.mkdir(parents=True, exist_ok=True)
    # Appending: a rank that starts again, and the children of a rank, write to the same file.
    descriptor = os.open(log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)


def set_threads(num_threads: int) -> None:
    """Set the number of threads. Must be called before torch is imported."""
    os.environ["OMP_NUM_THREADS"] = str(num_threads)
    # Threads of one rank that spin while they wait would take the cores of the other ranks.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def train(spec: RunSpec, folder: RunFolder, facts: RankFacts, attempt: int, reporter: Reporter) -> object:
    """Train as one rank. The process boundary: every error ends here, classified and written down.

    Returns an object that must live until the process ends.
    """
    from trainer.run.telemetry import Telemetry

    journal = Telemetry(folder, attempt, facts.is_main)
    journal.enter("starting")
    try:
        from galley.plugins import add_folders
        from trainer.run import session
        from trainer.tasks import make_task

        spec = with_uploaded(spec, folder.code)
        add_folders(folder.code / "plugins" / str(number) for number in range(len(spec.recipe.plugins)))
        resume = os.environ.get("GALLEY_RESUME") == "1"
        started_at = float(os.environ.get("GALLEY_STARTED_AT", STARTED_AT))
        of_attempt = session.Attempt(attempt, resume, started_at, reporter.end_without_host)
        return session.run(spec, folder, facts, of_attempt, journal, make_task)
    except BaseException as error:  # noqa: BLE001
        report(error, journal.phase, reporter, journal.tracking)


def report(
    error: BaseException, phase: str, reporter: Reporter, tracking: Tracking | None = None
) -> NoReturn:
    """Classify an error, write it down, and end the process."""
    from trainer.run.failures import classify

    trace = "" if isinstance(error, GalleyError) else traceback.format_exc()
    traceback.print_exc()
    message = str(error) or type(error).__name__
    failure_class = classify(error, phase)

    if failure_class in ("node", "hang"):
        from trainer.hosts.peers import silent_hosts

        gone = silent_hosts()
        message = f"no answer from {', '.join(gone)}: {message}" if gone else message

    exit_code = 2 if isinstance(error, ConfigError) else RunFailedError.exit_code
    reporter.fail(failure_class, message, trace, exit_code, tracking)


def main() -> object:
    """Train. Returns an object that must live until the process ends, which must be by `leave`."""
    die_with_parent()  # so that no rank trains on without its launcher
    parser = argparse.ArgumentParser(prog="trainer.worker")
    parser.add_argument("--run-dir", type=Path, required=True)
    parser.add_argument("--sha256", required=True)
    arguments = parser.parse_args()

    folder = RunFolder(arguments.run_dir)
    attempt = int(os.environ.get("GALLEY_ATTEMPT", "1"))
    try:
        facts = read_rank_facts(os.environ)
    except ConfigError as error:
        sys.exit(f"trainer.worker: {error}")

    redirect_output(folder.rank_log(attempt, facts.rank))
    reporter = Reporter(folder, attempt, facts.rank)
    reporter.end_on_signal()
    try:
        spec = as_started(folder.read_spec(arguments.sha256), facts, os.environ, folder.read_memory_limit())
    except ConfigError as error:
        report(error, "starting", reporter)

    set_threads(spec.layout.threads_per_proc)
    return train(spec, folder, facts, attempt, reporter)


if __name__ == "__main__":
    _kept = main()
    leave(0)
