"""The slow imports of a run, besides torch's: seconds that a rank need not spend after all others."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread

log = logging.getLogger("galley")

# Each imports what every model, or every tokenizer, has in common.
MODULES = ("datasets", "transformers.models.auto.tokenization_auto", "transformers.modeling_layers")


@contextmanager
def importing() -> Iterator[None]:
    """`MODULES` are imported while the body waits, which must import nothing itself."""
    thread = Thread(target=_import_all, name="imports")
    thread.start()
    try:
        yield
    finally:
        thread.join()


def _import_all() -> None:
    """What goes wrong here goes wrong again where a library is needed, and is reported there."""
    for name in MODULES:
        try:
            importlib.import_module(name)
        except (ImportError, OSError, RuntimeError) as error:
            log.debug("%s: %s", name, error)
