"""Messages over a socket, with open files."""

from __future__ import annotations

import os
import socket
import threading

import pytest

from galley.system import ipc


def test_a_message_arrives_whole_and_with_its_file() -> None:
    one, other = socket.socketpair()
    one.settimeout(10.0)  # as the launcher's: a write may then be cut short
    reads, writes = os.pipe()
    said = {"text": "line\nfeed", "large": "x" * 2**20}
    thread = threading.Thread(target=ipc.send, args=(one, said, [writes]))
    thread.start()
    message = ipc.receive(other)
    thread.join()
    assert message is not None
    assert message.said == said
    (file,) = message.files
    os.write(file, b"!")
    assert os.read(reads, 1) == b"!"
    ipc.send(other, {"answer": 1})
    assert ipc.receive(one) == ({"answer": 1}, [])
    for descriptor in (reads, writes, file):
        os.close(descriptor)


def test_the_other_end_is_gone() -> None:
    one, other = socket.socketpair()
    other.close()
    assert ipc.receive(one) is None
    with pytest.raises((BrokenPipeError, ConnectionResetError)):
        ipc.send(one, {})
