"""Import a run's slow libraries in a thread, while the rank waits for something else."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread

log = logging.getLogger("galley")

# Each imports what all models, or all tokenizers, have in common.
MODULES = ("datasets", "transformers.models.auto.tokenization_auto", "transformers.modeling_layers")


@contextmanager
def importing() -> Iterator[None]:
    """Import `MODULES` while the body waits. The body must not import anything itself."""
    thread = Thread(target=_import_all, name="imports")
    thread.start()
    try:
        yield
    finally:
        thread.join()


def _import_all() -> None:
    """Import the modules. An error here is only logged: it is raised again where the library is needed."""
    for name in MODULES:
        try:
            importlib.import_module(name)
        except (ImportError, OSError, RuntimeError) as error:
            log.debug("%s: %s", name, error)
