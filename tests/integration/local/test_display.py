"""What a person sees: on a real terminal, and in a pipe."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
import termios
from pathlib import Path

from tests.integration.local.standin import environment, launch_argv, make_run, run_launch
from tests.support import run_process

ESCAPE = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


def run_on_a_terminal(argv: list[str], columns: int = 100) -> tuple[int, str]:
    """Exit code and everything that a terminal received."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (30, columns))
    env = environment(TERM="xterm-256color")
    del env["COLUMNS"]
    process = subprocess.Popen(
        argv, stdin=theirs, stdout=theirs, stderr=theirs, env=env, start_new_session=True
    )
    os.close(theirs)
    received = bytearray()
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # the other side is closed
            break
        if not part:
            break
        received += part
    os.close(ours)
    return process.wait(timeout=60), received.decode()


def test_a_terminal_gets_one_live_line_and_the_evaluations(weird_tmp_path: Path) -> None:
    folder = make_run(weird_tmp_path / "run")
    code, text = run_on_a_terminal(launch_argv(folder))
    assert code == 0
    plain = ESCAPE.sub("", text)
    for part in (
        "starting the processes",
        "training",
        "6/6",
        "loss 0.1667",
        "12.5 samples/s",
        "ETA",
        "eval/f1 0.6500",
    ):
        assert part in plain
    assert plain.count("eval/f1 0.6500") == 1, "evaluations scroll by once"
    assert "\x1b[?25l" in text
    assert text.rfind("\x1b[?25h") > text.rfind("\x1b[?25l"), "the cursor is shown again"
    assert plain.rstrip().endswith(str(folder.root))


def test_a_narrow_terminal_is_not_flooded(weird_tmp_path: Path) -> None:
    folder = make_run(weird_tmp_path / "run", ranks=1)
    code, text = run_on_a_terminal(launch_argv(folder), columns=40)
    assert code == 0
    assert ESCAPE.sub("", text).count("\n") < 60


def test_ctrl_c_on_a_terminal_shows_the_cursor_again(weird_tmp_path: Path) -> None:
    """The key itself: the terminal sends SIGINT to its foreground group."""
    script = weird_tmp_path / "press.py"
    script.write_text(PRESS)
    folder = make_run(weird_tmp_path / "run", "hang")
    done = run_process([sys.executable, "-P", script, folder.root, *launch_argv(folder)], timeout=60)
    assert "exit code 130" in done.out
    assert done.out.rfind("[?25h") > done.out.rfind("[?25l")


PRESS = """
import os, pty, sys, time
root, argv = sys.argv[1], sys.argv[2:]
child, terminal = pty.fork()
if child == 0:
    os.environ["TERM"] = "xterm"
    os.execv(argv[0], argv)
pressed = False
while True:
    try:
        part = os.read(terminal, 65536)
    except OSError:
        break
    sys.stdout.write(repr(part))
    if not pressed and all(os.path.exists(f"{root}/pid-{rank}") for rank in (0, 1)):
        os.write(terminal, b"\\x03")
        pressed = True
print("exit code", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_pipe_gets_plain_lines(weird_tmp_path: Path) -> None:
    folder = make_run(weird_tmp_path / "run", ranks=1)
    done = run_launch(folder)
    assert "\x1b" not in done.out
    lines = done.out.splitlines()
    assert lines[:5] == [
        str(folder.root), "starting the processes", "preparing the data", "loading the model", "training",
    ]  # fmt: skip
    assert lines.count("training") == 1
    assert sum(line.startswith("step 3  eval/f1 0.6500") for line in lines) == 1
    assert any(re.match(r"step \d/6  loss \d\.\d{4}  lr 1\.00e-04  12\.5 samples/s", line) for line in lines)
