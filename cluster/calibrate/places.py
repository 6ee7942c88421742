"""Where the host's logical CPUs are: sockets, last-level caches, cores, threads; and which pairs are how far apart."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from shmm.cluster.topology import CORES, ranges, read_text

PAIRS = 8                       # of each distance, spread over the machine; launches take turns
CACHE_BYTES = 32 << 20          # of a last-level cache that the host does not describe
SMT, CLUSTER, SOCKET, REMOTE = "smt", "cluster", "socket", "remote"
DISTANCES = (SMT, CLUSTER, SOCKET, REMOTE)


class Place(NamedTuple):
    """A logical CPU and where it is; sockets, clusters and cores are numbered machine-wide, from 0."""

    cpu: int
    socket: int
    cluster: int                # who shares a level-3 cache; without one, the socket
    core: int


class Shape(NamedTuple):
    """A machine as regular as a machine file describes it."""

    sockets: int
    clusters_per_socket: int
    cores_per_cluster: int
    threads_per_core: int

    @property
    def cpus(self) -> int:
        """Hardware threads in all."""
        return self.sockets * self.clusters_per_socket * self.cores_per_cluster * self.threads_per_core

    @property
    def cores_per_socket(self) -> int:
        """Cores of a socket."""
        return self.clusters_per_socket * self.cores_per_cluster


def places(allowed: Iterable[int], root: Path = CORES) -> list[Place]:
    """Every logical CPU that is online, as /sys describes it.

    allowed: the CPUs to assume, each a core of one socket, where /sys says nothing."""
    found = [(cpu, *_keys(root / f"cpu{cpu}", cpu)) for cpu in _online(root)]
    if not found:
        found = [(cpu, (0,), (0,), (cpu,)) for cpu in sorted(allowed)]
    sockets, clusters, cores = (_numbers(keys) for keys in list(zip(*found, strict=True))[1:])
    return [Place(cpu, sockets[socket], clusters[cluster], cores[core]) for cpu, socket, cluster, core in found]


Key = tuple[int, ...]


def _online(root: Path) -> list[int]:
    numbers = (path.name.removeprefix("cpu") for path in root.glob("cpu*"))
    return sorted(int(number) for number in numbers if number.isdigit() and (root / f"cpu{number}/topology").is_dir())


def _keys(folder: Path, cpu: int) -> tuple[Key, Key, Key]:
    """What tells sockets, clusters and cores apart: each begins with what contains it."""
    socket = (int(read_text(folder / "topology/physical_package_id") or 0),)
    cluster = (*socket, *(min(ranges(text)) for text in _last_level(folder, "shared_cpu_list")))
    return socket, cluster, (*cluster, min(ranges(read_text(folder / "topology/thread_siblings_list") or str(cpu))))


def _last_level(folder: Path, name: str) -> list[str]:
    """What the description of the CPU's level-3 cache says under a name: none, or one text."""
    for index in sorted(folder.glob("cache/index*")):
        if read_text(index / "level") == "3":
            text = read_text(index / name)
            return [text] if text else []
    return []


def _numbers(keys: Sequence[Key]) -> dict[Key, int]:
    return {key: number for number, key in enumerate(sorted(set(keys)))}


def shape(everywhere: Sequence[Place]) -> Shape:
    """The smallest regular machine that holds them all."""
    threads, cores, clusters = ({(place[i], place[i + 1]) for place in (
        (p.socket, p.cluster, p.core, p.cpu) for p in everywhere)} for i in (2, 1, 0))
    return Shape(len({place.socket for place in everywhere}), _most(clusters), _most(cores), _most(threads))


def _most(pairs: set[tuple[int, int]]) -> int:
    """How many parts the biggest whole has."""
    wholes = [whole for whole, _ in pairs]
    return max(wholes.count(whole) for whole in set(wholes))


def distance(a: Place, b: Place) -> str:
    """What lies between two different CPUs."""
    if a.core == b.core:
        return SMT
    if a.cluster == b.cluster:
        return CLUSTER
    return SOCKET if a.socket == b.socket else REMOTE


def pairs(usable: Sequence[Place]) -> dict[str, list[tuple[int, int]]]:
    """CPUs at each distance that there is: at most PAIRS of each."""
    found: dict[str, list[tuple[int, int]]] = {}
    for number, a in enumerate(usable):
        for b in usable[number + 1:]:
            found.setdefault(distance(a, b), []).append((a.cpu, b.cpu))
    return {name: _spread(found[name]) for name in DISTANCES if name in found}


def _spread(some: list[tuple[int, int]]) -> list[tuple[int, int]]:
    count = min(len(some), PAIRS)
    return [some[number * len(some) // count] for number in range(count)]


def one_of_each_core(usable: Sequence[Place]) -> list[Place]:
    """The first hardware thread of each core."""
    return list({place.core: place for place in reversed(usable)}.values())[::-1]


def cache_bytes(cpu: int, root: Path = CORES) -> int:
    """The size of the CPU's last-level cache."""
    for text in _last_level(root / f"cpu{cpu}", "size"):
        if text.endswith("K") and text[:-1].isdigit():
            return int(text[:-1]) << 10
    return CACHE_BYTES
