"""Where the finished model is published."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Hub:
    """The Hugging Face hub. The token is that of `HF_TOKEN` or of the login on the machine.

    Attributes:
        push: repository to which the main rank uploads model/ when the run has succeeded: `NAME` or
            `OWNER/NAME`. Null uploads nothing. Without a connection the run succeeds all the same and says
            how to upload later.
        private: whether a repository that does not exist yet is made private.
        license: identifier for the model card, as the hub spells it: `apache-2.0`. Null states none.
    """

    push: str | None = None
    private: bool = True
    license: str | None = None
