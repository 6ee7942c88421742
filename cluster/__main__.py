"""`python -m shmm.cluster`, also installed as `shmm`."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shmm.cluster.config import Config

# One thread until the workers are forked: NumPy's linear algebra would start one per core, and is not needed.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

MODULES = {                     # commands that are modules: add_arguments(parser), main(args)
    "check": "explore the schedules of a few operations",
    "record": "run a program under perf and record it for replay",
    "replay": "run what a recorded program did",
    "calibrate": "measure this machine and write a machine file for it",
    "validate": "recompute published curves with the simulator",
    "oracle": "compare programs with this machine's own kernel",
}
COMMANDS = ("run", *MODULES, "doctor", "clean")
USAGE, ENVIRONMENT, INTERRUPTED = 2, 3, 130

EXAMPLES = """examples:
  shmm --cpus 64                                    both schemes on page_fault1, one table
  shmm run --cpus 1,2,4 --workload page_fault1,pft  a small sweep
  shmm run --engine sim --machine skylake-2x28 --workload pft --cpus 1,4,12,21,48,112
  shmm run --engine sim --machine skylake-2x28 --workload pft --cpus 12,48 --vary transfer=10..200ns,ipi=0.5..4x
  shmm run --engine native,host --cpus 2            both schemes, and beside them this machine's own kernel
  shmm run --workload ebizzy --workload-args=-mTR --scheme spf --json result.json
  shmm run --list                                   the workloads
  shmm check --all                                  every schedule of every scenario, up to two preemptions
  shmm check --mutants                              takes each protection away and sees what notices
  shmm validate                                     published curves, recomputed: how far off is the simulator?
  shmm record -o gcc.txt.xz -- gcc -c hello.c       what a program does to its address spaces, for shmm replay
  shmm calibrate                                    measures this machine and writes the machine file `host`
  shmm oracle --programs 2000 --seed 1              the same programs on this machine's kernel: nothing may differ

exit status: 0 fine, 1 a violation or divergence was found, a worker died or a validation curve was missed, 2 usage,
3 this environment cannot run it, 130 interrupted (what was measured so far is printed and saved)
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command line and returns its exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] not in (*COMMANDS, "-h", "--help", "--version"):
        words.insert(0, "run")
    try:
        parser = build_parser(words[0])
        args = parser.parse_args(words)
        status = int(args.handler(args))
    except ImportError as error:
        if not (error.name or "").startswith("shmm") and "_fast" not in str(error):
            raise
        print(f"shmm: the native engine cannot be loaded ({error}); `shmm doctor` says what to do",
              file=sys.stderr)
        return ENVIRONMENT
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:             # the reader of our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    if status == INTERRUPTED and argv is None:
        # all workers are killed, but a big one takes its time to go, and multiprocess would wait for each
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return status


def build_parser(command: str) -> argparse.ArgumentParser:
    """The whole command line; only the command in use loads what it needs."""
    parser = argparse.ArgumentParser(
        prog="shmm",
        description="Page faults, mmap and TLB shootdown on emulated CPUs that share an address space.",
        epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"shmm {version()}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    run = add_command(commands, "run", "measure schemes on workloads (also without the word run)")
    for name, text in MODULES.items():
        other = add_command(commands, name, text)
        if name == command:
            add_module(other, name)
    doctor = add_command(commands, "doctor", "check whether this machine can run it")
    doctor.set_defaults(handler=doctor_command)
    clean = add_command(commands, "clean", "remove what dead runs left in /dev/shm")
    clean.set_defaults(handler=clean_command)
    if command == "run":
        add_run(run)
    return parser


def add_command(commands: Any, name: str, text: str) -> argparse.ArgumentParser:
    """One sub-command."""
    description = text[0].upper() + text[1:] + "."
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=text, description=description, allow_abbrev=False,
    )
    return parser


def add_run(parser: argparse.ArgumentParser) -> None:
    """The run command."""
    from shmm.cluster import options

    options.add_run_options(parser)
    parser.set_defaults(handler=lambda args: run_command(args, parser))


def add_module(parser: argparse.ArgumentParser, name: str) -> None:
    """A command that is a module."""
    module = importlib.import_module(f"shmm.cluster.{name}")
    module.add_arguments(parser)
    parser.set_defaults(handler=module.main)


def run_command(args: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    """Measures all points that the options ask for."""
    from shmm.cluster import host, machines, options, sizing, topology, workloads
    from shmm.cluster.config import HOST

    if args.list:
        for name, description in workloads.available().items():
            print(f"{name:12} {description}")
        print(f"\nmachines that --engine sim models: {', '.join(machines.names())}, host")
        return 0
    if args.cpus is None:
        args.cpus = (topology.usable_cores(),)
    options.check(args, parser)
    points, modelled = options.points(args), options.modelled(args)
    try:
        for point in points:
            job = sizing.job_for(point)
            if point.engine == HOST:
                host.check(job)
            else:
                job.geometry()
        if modelled:
            check_modelled(modelled)
        sweeps = options.sweeps(args, modelled)
    except ValueError as error:             # no such workload or machine, or more than a segment can hold
        parser.error(str(error))

    from shmm.cluster import session

    return session.measure_all(points, args.json, modelled=modelled, jobs=args.jobs, sweeps=sweeps)


def check_modelled(points: Sequence[Config]) -> None:
    """Raises ValueError for points that cannot be simulated."""
    from shmm.cluster import simulate, sizing

    for point in points:
        sizing.job_for(point).geometry()
        simulate.costs.costs(simulate.machine_of(point), point.cpus)


def doctor_command(args: argparse.Namespace) -> int:
    """Looks whether this machine can run it."""
    from shmm.cluster import doctor

    return doctor.main()


def clean_command(args: argparse.Namespace) -> int:
    """Removes shared memory and semaphores of dead runs."""
    from shmm import segment

    removed = segment.clean()
    for path in removed:
        print(f"removed {path}")
    if not removed:
        print("nothing to clean: no dead run left anything in /dev/shm")
    return 0


def version() -> str:
    """This project's version."""
    from importlib import metadata

    try:
        return metadata.version("shmm")
    except metadata.PackageNotFoundError:
        return "(not installed)"


if __name__ == "__main__":
    sys.exit(main())
