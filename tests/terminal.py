"""What a command shows a person: its stderr on a pseudo-terminal."""

import os
import pty
import subprocess
import sys


def stderr_on_a_terminal(*words: str) -> bytes:
    """Runs shmm with stderr a terminal; all that came there.  The exit status must be 0."""
    leader, follower = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "140"}
    with subprocess.Popen([sys.executable, "-m", "shmm.cluster", *words], stdout=subprocess.PIPE, stderr=follower,
                          env=environment) as process:
        os.close(follower)
        seen = b""
        try:
            while chunk := os.read(leader, 4096):
                seen += chunk
        except OSError:                 # how a terminal says that its other end is closed
            pass
        assert process.wait(30) == 0
    os.close(leader)
    return seen
