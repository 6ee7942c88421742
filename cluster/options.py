"""The command line's options for a run, and the measurement points they ask for."""

from __future__ import annotations

import argparse
import dataclasses
import re
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from shmm.cluster import machines, topology
from shmm.cluster.config import ENGINES, HOST, SCHEMES, START_METHODS, Config
from shmm.cluster.words import BASE

MAX_CPUS = 1024
BESIDE = f"native,{HOST}"       # both, on programs of the same size
UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


def add_run_options(parser: argparse.ArgumentParser, *, workloads: bool = True) -> None:
    """The options of `run`; without those that choose a workload, of whatever else runs programs."""
    if workloads:
        parser.add_argument("--cpus", type=numbers, metavar="N[,N...]",
                            help="emulated CPUs (default: the cores of this machine)")
        parser.add_argument("--workload", type=names, default=("page_fault1",), metavar="W[,W...]",
                            help="what the CPUs do (default: page_fault1; see --list)")
        parser.add_argument("--workload-args", default=(), type=words, metavar="ARGS",
                            help="the workload's own arguments, as one word: --workload-args=-mTR")
        parser.add_argument("--size", type=nbytes, metavar="BYTES",
                            help="what each task maps, such as 16M (default: as in the original, if it fits)")
        parser.add_argument("--seconds", type=positive(float), metavar="S",
                            help="measured time of each repeat, on the engine's clock (default: 2; "
                                 "sim: 0.002, and whole rounds)")
        parser.add_argument("--list", action="store_true", help="list the workloads and exit")
    parser.add_argument("--scheme", type=names, default=SCHEMES, metavar="A[,B...]",
                        help=f"concurrency designs (default: {','.join(SCHEMES)})")
    engines = (*ENGINES, BESIDE) if workloads else ENGINES[:1]
    parser.add_argument("--engine", type=one_of("engine", engines), metavar="ENGINE",
                        help="what executes the CPUs: native, each a process (the default)"
                             + ("; sim, a model of --machine in virtual time; host, threads on this machine's own "
                                f"kernel, which has one scheme; {BESIDE}, both in one table" if workloads else ""))
    if workloads:
        parser.add_argument("--machine", metavar="NAME|FILE",
                            help="the machine that sim models (default: host, see `shmm calibrate`; --list names them)")
        parser.add_argument("--exact", action="store_true", help="sim: no lookahead, slower and exact")
        parser.add_argument("--vary", type=ranges, default=(), metavar="NAME=LOW..HIGH[UNIT][:N][,...]",
                            help="sim: all of it again with other figures of the machine, one at a time: "
                                 "transfer=10..200ns,ipi=0.5..4x (docs/simulation.md)")
        parser.add_argument("--jobs", type=positive(int), metavar="N",
                            help="sim: points simulated at the same time (default: the cores of this machine)")
    parser.add_argument("--repeats", type=positive(int), metavar="N",
                        help="runs of each point; the median is reported (default: "
                             + ("3; sim: 1, each further one with the next seed)" if workloads else "1)"))
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="of random numbers (default: 1)")
    parser.add_argument("--force-speculation", action="store_true",
                        help="speculate even while one CPU alone runs the address space")
    parser.add_argument("--no-zero", dest="zero", action="store_false",
                        help="do not clear fresh pages, to measure faults alone")
    parser.add_argument("--paranoid", action="store_true", help="check invariants while running")
    parser.add_argument("--walk", default="irq", type=one_of("walk", ("irq", "rcu")), metavar="irq|rcu",
                        help="what protects a speculative page-table walk (default: irq)")
    parser.add_argument("--table-free", default="ipi", type=one_of("table-free", ("ipi", "rcu")),
                        metavar="ipi|rcu", help="what the freeing of page tables waits for (default: ipi)")
    parser.add_argument("--ipi", type=one_of("ipi", ("mailbox", "signal")), metavar="mailbox|signal",
                        help="how a shootdown reaches a CPU: it looks, or is interrupted (default: mailbox; "
                             "sim: signal)")
    parser.add_argument("--thp", default="never", type=one_of("thp", ("never", "madvise", "always")),
                        metavar="never|madvise|always",
                        help="huge pages for large mappings (default: never; always leaves little "
                             "to speculate on)")
    parser.add_argument("--vma-free", default="auto", type=one_of("vma-free", ("auto", "rcu")), metavar="auto|rcu",
                        help="when a VMA is freed: at once while one CPU alone runs the address space, or always "
                             "after a grace period (default: auto)")
    parser.add_argument("--vma-tree", default="rbtree", type=one_of("vma-tree", ("rbtree", "latched")),
                        metavar="rbtree|latched", help="the index of VMAs: a tree, or two behind a latch "
                                                       "(default: rbtree)")
    parser.add_argument("--preempt-rt", action="store_true",
                        help="PREEMPT_RT: who waits for a spinlock sleeps, which is reported where interrupts are off")
    parser.add_argument("--start-method", default="fork", type=one_of("start-method", START_METHODS),
                        metavar="fork|forkserver", help="how worker processes begin (default: fork)")
    parser.add_argument("--pin", action=argparse.BooleanOptionalAction, default=None,
                        help="pin CPUs to cores (default: if each gets one of its own)")
    parser.add_argument("--json", metavar="FILE|-", help="write the results there as one JSON document")


def numbers(text: str) -> tuple[int, ...]:
    """CPU numbers: 1,2,4."""
    try:
        out = tuple(int(word) for word in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of numbers such as 1,2,4") from None
    if not all(1 <= n <= MAX_CPUS for n in out):
        raise argparse.ArgumentTypeError(f"{text}: a machine has 1 to {MAX_CPUS} CPUs")
    return tuple(dict.fromkeys(out))


def names(text: str) -> tuple[str, ...]:
    """Names between commas, each once."""
    out = tuple(dict.fromkeys(word.strip() for word in text.split(",")))
    if not all(out):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of names such as a,b")
    return out


def words(text: str) -> tuple[str, ...]:
    """A workload's arguments, split as a shell does."""
    try:
        return tuple(shlex.split(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: {error}") from None


def ranges(text: str) -> tuple[Any, ...]:
    """Figures and what they are varied to (simulate/vary.py)."""
    from shmm.cluster.simulate import vary

    try:
        return vary.parse(text)
    except vary.VaryError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def nbytes(text: str) -> int:
    """Bytes, with an optional unit: 4096, 512K, 16M, 1GiB."""
    match = re.fullmatch(r"(\d+)\s*([kmg]?)(?:i?b)?", text.strip().lower())
    if match is None or int(match[1]) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 16M")
    return int(match[1]) * UNITS[match[2]]


def positive(kind: Callable[[str], Any]) -> Callable[[str], Any]:
    """A number greater than 0."""
    def convert(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = 0
        if not 0 < value < 10**9:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number greater than 0")
        return value
    return convert


def one_of(what: str, choices: tuple[str, ...]) -> Callable[[str], str]:
    """A name out of few; says which there are if it is none of them."""
    def convert(text: str) -> str:
        if text not in choices:
            raise argparse.ArgumentTypeError(f"there is no {what} {text!r}; there is {', '.join(choices)}")
        return text
    return convert


def check(args: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Ends with a usage error for what each option alone cannot see."""
    for scheme in args.scheme:
        if scheme not in SCHEMES:
            parser.error(f"argument --scheme: there is no scheme {scheme!r}; there are {', '.join(SCHEMES)}")
    if args.walk == "rcu" and args.table_free == "ipi":
        parser.error("--walk rcu needs --table-free rcu: an RCU walker keeps interrupts on, so the interrupt "
                     "that --table-free ipi relies on does not wait for it, and frees tables under its feet")
    if getattr(args, "vary", ()):
        if args.engine != "sim":
            parser.error("--vary needs --engine sim: only what is modelled can have other figures")
        if BASE not in args.scheme or len(args.scheme) == 1:
            parser.error(f"--vary compares schemes with {BASE}: add it, and another one, to --scheme")
    if args.engine == HOST:
        for name, default in EMULATED.items():
            if getattr(args, name) != default:
                option = "no-zero" if name == "zero" else name.replace("_", "-")
                parser.error(f"--{option} does not apply to --engine host: its kernel is this machine's, as it is")
    if getattr(args, "machine", None) and args.engine in ("native", HOST, BESIDE):
        parser.error("--machine is what --engine sim models: leave --engine out to see both, or say --engine sim")
    if args.json not in (None, "-"):
        folder = Path(args.json).resolve().parent
        if not folder.is_dir() or Path(args.json).is_dir():
            parser.error(f"argument --json: cannot write {args.json}: {folder} is no directory to write to"
                         if not folder.is_dir() else f"argument --json: {args.json} is a directory")


REPEATS = {"native": 3, "sim": 1, HOST: 3}
EMULATED = {"scheme": SCHEMES, "walk": "irq", "table_free": "ipi", "ipi": None, "paranoid": False, "zero": True,
            "force_speculation": False, "start_method": "fork"}     # what only emulated machines have, and its defaults
SHOWCASE = ("skylake-2x28", "epyc-9965-2x192")      # modelled beside a native run of more CPUs than cores


def base_config(args: argparse.Namespace, **more: Any) -> Config:
    """The Config of the options that every command has; more: the other fields."""
    return Config(
        seed=args.seed, force_speculation=args.force_speculation,
        zero=args.zero, paranoid=args.paranoid, walk=args.walk, table_free=args.table_free, ipi=args.ipi or "",
        thp=args.thp, vma_free=args.vma_free, vma_tree=args.vma_tree, preempt_rt=args.preempt_rt,
        start_method=args.start_method, pin=args.pin, **more,
    )


def points(args: argparse.Namespace) -> list[Config]:
    """What is measured on this machine: every combination of workload, CPUs and scheme, the schemes together."""
    if args.engine == "sim":
        return []
    if args.engine == HOST:
        return combinations(args, HOST, None)
    return combinations(args, "native", None) + (beside(args) if args.engine == BESIDE else [])


def beside(args: argparse.Namespace) -> list[Config]:
    """The same on the host's kernel, with as much memory per task as the emulated machine has for it."""
    from shmm.cluster import sizing
    from shmm.cluster.workloads import PAGE

    native = combinations(argparse.Namespace(**vars(args) | {"scheme": SCHEMES[:1]}), "native", None)
    return [dataclasses.replace(point, size=point.size or max(PAGE, sizing.job_for(like).bytes_per_cpu))
            for point, like in zip(combinations(args, HOST, None), native, strict=True)]


def modelled(args: argparse.Namespace) -> list[Config]:
    """What is simulated: all of it with --engine sim; without --engine also what this machine has too few cores for."""
    if args.engine == "sim":
        return combinations(args, "sim", args.machine)
    if args.engine is not None:
        return []
    cpus = tuple(n for n in args.cpus if n > topology.usable_cores())
    big_enough = [name for name in SHOWCASE if max(cpus, default=0) <= machines.load(name).cpus]
    machine = args.machine or next(iter(big_enough), None)
    return combinations(args, "sim", machine, cpus) if machine else []


def combinations(
    args: argparse.Namespace, engine: str, machine: str | None, cpus: Sequence[int] | None = None,
) -> list[Config]:
    """Every combination on one engine; cpus: instead of --cpus."""
    asked = (args.engine or "native").split(",")
    seconds = args.seconds if engine in asked else None     # of one engine's clock, not of both
    schemes = (HOST,) if engine == HOST else args.scheme
    return [
        base_config(args, engine=engine, machine=machine, exact=args.exact,
                    repeats=args.repeats or REPEATS[engine], scheme=scheme, workload=workload,
                    workload_args=args.workload_args, cpus=n, seconds=seconds or 0.0, size=args.size)
        for workload in args.workload for n in (args.cpus if cpus is None else cpus) for scheme in schemes
    ]


def sweeps(args: argparse.Namespace, simulated: Sequence[Config]) -> list[Any]:
    """What --vary asks for, on the machine of the points.  Raises ValueError for what cannot be."""
    if not args.vary:
        return []
    from shmm.cluster.simulate import vary

    machine, cpus = machines.load(args.machine or machines.HOST), max(point.cpus for point in simulated)
    return [vary.sweep(one, machine, cpus) for one in args.vary]
