"""`calibrate`: measures this machine by several methods and writes a machine file for it, `host`.

    places.py     sockets, caches, cores; pairs of CPUs and how far apart they are
    probes.py     what is measured, and what reports mean      launches.py  fresh processes, and whether to believe them
    campaign.py   all probes in turns, again and again         profile.py   which figure stands for which of the model's
    report.py     the tables and the JSON document

What each process does is shmm/arch/calibrate.h; docs/calibrating.md says what the methods are worth.
"""

from __future__ import annotations

import argparse
import errno
import os
import tempfile
from pathlib import Path

from shmm.cluster import machines, session
from shmm.cluster.calibrate import campaign, places, profile, report
from shmm.cluster.calibrate.campaign import LEAST, Task
from shmm.cluster.progress import Live

LAUNCHES = 15
MOST = 1000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The calibrate command's options."""
    parser.add_argument("--launches", type=enough, default=LAUNCHES, metavar="N",
                        help=f"fresh processes for each figure, at least {LEAST} (default: %(default)s)")
    parser.add_argument("--output", metavar="FILE",
                        help=f"write the machine file there (default: {machines.host_path()}, machine `host`)")
    parser.add_argument("--json", metavar="FILE|-", help="write the results there as one JSON document")
    parser.set_defaults(parser=parser)


def enough(text: str) -> int:
    """A number of launches."""
    if not text.isdecimal() or not LEAST <= int(text) <= MOST:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from {LEAST} to {MOST}: fewer launches than "
                                         f"{LEAST} say nothing about how a figure scatters")
    return int(text)


def main(args: argparse.Namespace) -> int:
    """Measures, prints, writes, and returns the exit status."""
    output = machines.host_path() if args.output is None else Path(args.output)
    check(args, output)
    usable = os.sched_getaffinity(0)
    everywhere = places.places(usable)
    shape = places.shape(everywhere)
    tasks = campaign.plan([place for place in everywhere if place.cpu in usable])
    with session.interruptible() as interrupted, View(tasks, args.launches) as view:
        stopped = campaign.measure(tasks, args.launches, interrupted, view.notice)
    measured = campaign.results(tasks)
    machine = None if stopped else profile.Profile(measured, shape).machine()
    document = report.document(measured, args.launches, shape, len(everywhere), machine)
    status = session.OK
    if machine is None:
        document["interrupted"] = True
        status = session.INTERRUPTED
    else:
        try:
            write(machines.dumps(machine), output)
            document["written"] = str(output)
        except OSError as error:
            document["error"] = f"cannot write {output}: {error.strerror}; choose another place with --output"
            status = session.ENVIRONMENT
        if not profile.lines_measured(measured):
            document.setdefault("error", f"lines that move between CPUs could not be measured: {unmeasured(measured)}; "
                                         f"{machines.HOST} has estimates for them, so calibrate where two cores are "
                                         f"to be had")
            status = session.ENVIRONMENT
    session.report(document, report.show, args.json)
    return status


def check(args: argparse.Namespace, output: Path) -> None:
    """Ends with a usage error for files that cannot be written."""
    for option, path in (("json", args.json), ("output", args.output)):
        if path is None or (option, path) == ("json", "-"):
            continue
        folder = Path(path).resolve().parent
        if not folder.is_dir():
            args.parser.error(f"argument --{option}: cannot write {path}: {folder} is no directory to write to")
    for option, file in (("json", args.json), ("output", output)):
        if file not in (None, "-") and irregular(Path(file)):
            args.parser.error(f"argument --{option}: cannot write {file}: it is there already and no regular file")


def irregular(path: Path) -> bool:
    """Whether there is something that is no regular file."""
    return path.exists() and not path.is_file()


def unmeasured(measured: list[campaign.Measured]) -> str:
    """Why there is no figure of a transfer."""
    return next(one.refused for one in measured if one.name.startswith("transfer") and one.refused)


def write(text: str, path: Path) -> None:
    """Writes a file that nobody else may read, so that it holds what it held before or all of it.

    Raises OSError, also for a path that is a device or a folder: replacing a device would take it from everybody."""
    if irregular(path):
        raise OSError(errno.EINVAL, "it is there already and no regular file")
    before = os.umask(0o077)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    finally:
        os.umask(before)
    try:
        with os.fdopen(handle, "w") as file:
            file.write(text)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


class View(Live):
    """Progress of a campaign: a line, if there is a terminal."""

    def __init__(self, tasks: list[Task], wanted: int) -> None:
        super().__init__(wanted * len(tasks))
        self.tasks, self.wanted = tasks, wanted

    def notice(self, task: Task) -> None:
        """A launch of this task has ended."""
        if self.live is None:
            return
        done = sum(self.wanted if one.done(self.wanted) else len(one.used) for one in self.tasks)
        self.live.update(self.task, completed=done, description=f"{task.probe.method} {task.between}".strip(),
                         rate=f"{sum(len(one.dropped) for one in self.tasks)} launches dropped")
        self.live.refresh()
