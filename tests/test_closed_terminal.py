"""A terminal that is closed while a command works in it."""

import os
import subprocess
import sys
from pathlib import Path

from waiting import LIMIT_S, wait_until

COMMAND = """
import argparse, fcntl, signal, sys, termios, time
from pathlib import Path
from scaling import cli
from scaling.errors import Interrupted
home = Path(sys.argv[1])
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # also where the tests run under nohup
fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # of this session: its end is told to the session's leader

def work(args):
    (home / "begun").touch()
    try:
        [time.sleep(.1) for _ in range(6000)]  # a signal just before a sleep does not end it
    except Interrupted:
        print("saving", flush=True)
        print("saving", file=sys.stderr, flush=True)
        (home / "saved").touch()
        raise

cli._parse = lambda argv: argparse.Namespace(call=work, stopped="kept")
cli.main([])
"""


def test_a_command_whose_terminal_is_closed_stops_as_by_sigterm(tmp_path: Path) -> None:
    ours, its = os.openpty()
    command = [sys.executable, "-c", COMMAND, str(tmp_path)]
    process = subprocess.Popen(command, stdin=its, stdout=its, stderr=its, start_new_session=True)
    os.close(its)
    wait_until((tmp_path / "begun").exists)
    os.close(ours)
    assert process.wait(LIMIT_S) == 75 and (tmp_path / "saved").exists()
