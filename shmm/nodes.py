"""Memory nodes: how many a machine has, and which CPU belongs to which.

    Segment.create(geometry, nnode=2, cpu_node=[0, 0, 1, 1])

Each node has an equal range of the frames, a zone and an LRU list of its own (shmm/mm/frame.pxd, shmm/mm/lru.pxd);
a CPU takes frames of its own node as long as there are any."""

from __future__ import annotations

from collections.abc import Sequence

from shmm.layout import CONSTANTS


def node_fields(ncpu: int, nnode: int = 1, cpu_node: Sequence[int] = b"") -> dict[str, int | bytes]:
    """The header's fields.  cpu_node: the node of each CPU; left out, all are on node 0.

    Raises ValueError for nodes that cannot be."""
    if not 1 <= nnode <= CONSTANTS["MAX_NODE"]:
        raise ValueError(f"nnode is {nnode}, must be in 1..{CONSTANTS['MAX_NODE']}")
    if len(cpu_node) not in (0, ncpu):
        raise ValueError(f"cpu_node has {len(cpu_node)} nodes, must have one for each of {ncpu} CPUs")
    wrong = [node for node in cpu_node if not 0 <= node < nnode]
    if wrong:
        raise ValueError(f"cpu_node names node {wrong[0]}, must name nodes of 0..{nnode - 1}: there are {nnode}")
    return {"nnode": nnode, "cpu_node": bytes(cpu_node)}
