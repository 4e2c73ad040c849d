"""Fixtures of every suite. Sets the environment before anything can import torch."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest
from hypothesis import settings

from tests.support import REPO, not_available

# Ranks and tests share the cores: one thread each, asleep while it waits (torch reads these once).
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("MPLBACKEND", "agg")
# Tests see the machine as it is, not a developer's login, offline mode, or cluster allocation.
FOREIGN = re.compile(
    r"HF_(TOKEN|HUB_OFFLINE|DATASETS_OFFLINE)|TRANSFORMERS_OFFLINE|WANDB_API_KEY|MASTER_(ADDR|PORT)"
    r"|(LOCAL_|GROUP_)?(RANK|WORLD_SIZE)|(SLURM|PMI|OMPI_COMM|TORCHELASTIC|ACCELERATE)_.*"
)
for name in list(os.environ):
    if FOREIGN.fullmatch(name):
        del os.environ[name]


# A shell that runs `make test` in its background has it ignore Ctrl-C, and nohup the end of a session. Every
# command started from here would inherit that, as it should: tests that interrupt one would wait for ever.
for number, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, usual)

# A busy machine is no reason for a property to fail.
settings.register_profile("galley", deadline=None, print_blob=True)
settings.load_profile("galley")


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The folder with real data sets (`data/mrpc`, …): `GALLEY_SHARED`, else `shared` beside the checkout."""
    stated = os.environ.get("GALLEY_SHARED")
    folder = Path(stated) if stated else REPO.parent / "shared"
    if not (folder / "data").is_dir():
        message = f"no real data at {folder} (set GALLEY_SHARED)"
        if stated:
            pytest.fail(message)
        not_available(message, "the tests on MRPC, SST-2 and the other real data sets")
    return folder


@pytest.fixture
def weird_tmp_path(tmp_path: Path) -> Path:
    """An empty folder whose name no shell, YAML or Hydra override takes unquoted."""
    folder = tmp_path / 'it\'s a "weird" $HOME; folder, {x}=[1] #é'
    folder.mkdir()
    return folder
