"""Messages between processes of this machine: JSON objects, a line each, over a socket.

Each end sends its next message only once the last one was answered or used: no more than one is on its way.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

_CHUNK = 2**16


class Message(NamedTuple):
    """What was sent.

    Attributes:
        files: descriptors that came along, the receiver's own now.
    """

    said: dict[str, Any]
    files: list[int]


def send(channel: socket.socket, said: Mapping[str, Any], files: Sequence[int] = ()) -> None:
    """Raises `BrokenPipeError` or `ConnectionResetError` where the other end is gone; `TimeoutError`."""
    data = json.dumps(said).encode() + b"\n"
    sent = socket.send_fds(channel, [data], files)
    channel.sendall(data[sent:])


def receive(channel: socket.socket) -> Message | None:
    """The next message; None where the other end is gone. Raises `TimeoutError`."""
    data, files = b"", list[int]()
    while not data.endswith(b"\n"):
        try:
            part, more, _, _ = socket.recv_fds(channel, _CHUNK, 1)
        except ConnectionResetError:
            return None
        if not part:
            return None
        data += part
        files += more
    return Message(json.loads(data), files)
