"""Ray's Job API, which the head node serves beside its dashboard (`ray start --head`, port 8265).

https://docs.ray.io/en/latest/cluster/running-applications/job-submission/rest.html
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote
from urllib.request import Request, urlopen

from galley.errors import SubmissionError

_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Client:
    """One cluster.

    Attributes:
        address: `http://HOST:PORT`.
    """

    address: str

    def submit(self, body: dict[str, Any]) -> None:
        """Submit a job. Raises `SubmissionError` with the cluster's reason."""
        self._ask("POST", "", body)

    def get(self, job: str) -> dict[str, Any] | None:
        """Return what the cluster knows of a job; None if it does not know the job."""
        return self._ask("GET", job)

    def logs(self, job: str) -> str:
        """Return what the driver wrote."""
        return str((self._ask("GET", job, what="/logs") or {}).get("logs", ""))

    def stop(self, job: str) -> None:
        self._ask("POST", job, what="/stop")

    def delete(self, job: str) -> None:
        """Remove a job that has ended from the cluster: its name is free again."""
        self._ask("DELETE", job)

    def _ask(
        self, method: str, job: str, body: dict[str, Any] | None = None, what: str = ""
    ) -> dict[str, Any] | None:
        """Send one request; return the answer, or None for an unknown job."""
        url = f"{self.address}/api/jobs/{quote(job, safe='')}{what}"
        headers = {"Content-Type": "application/json"}
        if token := os.environ.get("RAY_AUTH_TOKEN"):
            headers["Authorization"] = f"Bearer {token}"

        data = None if body is None else json.dumps(body).encode()
        request = Request(url, data=data, headers=headers, method=method)  # noqa: S310  # checked: http(s)
        try:
            with urlopen(request, timeout=_TIMEOUT_S) as answer:  # noqa: S310
                content: dict[str, Any] = json.load(answer)
                return content
        except HTTPError as error:
            if error.code == 404 and job:
                return None
            lines = error.read().decode(errors="replace").strip().splitlines()
            raise SubmissionError(
                f"Ray at {self.address} refused: {lines[-1] if lines else error}"
            ) from error
        except (URLError, TimeoutError, ConnectionError) as error:
            reason = getattr(error, "reason", error)
            hint = "start one with `ray start --head`, or set launcher.ray.address=http://HOST:8265"
            raise SubmissionError(f"no Ray cluster answers at {self.address} ({reason}); {hint}") from error
        except ValueError as error:
            raise SubmissionError(f"{self.address} is no dashboard of Ray: {error}") from error
