"""Machines as TOML: what a file must hold, and how one is written."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from itertools import groupby
from typing import Any

from shmm.cluster.machines.model import FIGURES, TOPOLOGY, VARIED, Figure, Machine, MachineError

CLOCK = "ghz_by_active_cores"
# The keys of each table, "" being the top.
KEYS: dict[str, tuple[str, ...]] = {
    "": ("name", "cpu", "topology", "clock", *dict.fromkeys(name.split(".")[0] for name in FIGURES)),
    "topology": (*TOPOLOGY, "source"),
    "clock": (CLOCK, "source"),
    **{table: tuple(name.split(".")[1] for name in names)
       for table, names in groupby(FIGURES, lambda name: name.split(".")[0])},
}


def parse(document: Mapping[str, Any], label: str) -> Machine:
    """The machine in a TOML document; label says in errors which it is.  Raises MachineError, one line."""
    try:
        _keys("", document)
        for table in KEYS[""][2:]:
            _keys(table, document[table])
        return Machine(
            name=document["name"], cpu=document["cpu"],
            **{key: document["topology"][key] for key in TOPOLOGY},
            clock=_clock(document["clock"][CLOCK]),
            figures={name: _figure(name, document[name.split(".")[0]][name.split(".")[1]]) for name in FIGURES},
            topology_source=_source("topology", document["topology"]["source"]),
            clock_source=_source("clock", document["clock"]["source"]),
        )
    except MachineError as error:
        raise MachineError(f"{label}: {error}") from None


def dumps(machine: Machine) -> str:
    """The machine as TOML that load() reads back.  What was varied is an estimate there: nobody has measured it."""
    lines = [f"name = {_quoted(machine.name)}", f"cpu = {_quoted(machine.cpu)}", "", "[topology]"]
    lines += [f"{key} = {getattr(machine, key)}" for key in TOPOLOGY]
    steps = ", ".join(f"[{cores}, {float(ghz)!r}]" for cores, ghz in machine.clock)
    lines += [f"source = {_kept(machine.topology_source)}", "", "[clock]", f"{CLOCK} = [{steps}]",
              f"source = {_kept(machine.clock_source)}"]
    for table, names in groupby(FIGURES, lambda name: name.split(".")[0]):
        lines += ["", f"[{table}]"]
        for name in names:
            figure = machine.figures[name]
            lines.append(f"{name.split('.')[1]} = {{{figure.unit} = {float(figure.value)!r}, "
                         f"source = {_kept(figure.source)}}}")
    return "\n".join(lines) + "\n"


def _keys(table: str, found: object) -> None:
    where = f"[{table}]" if table else "a machine"
    if not isinstance(found, Mapping):
        raise MachineError(f"{table} must be a table: write it as [{table}] with {_list(KEYS[table])}")
    for key in found:
        if key not in KEYS[table]:
            raise MachineError(f"unknown key {key!r}: {where} has {_list(KEYS[table])}")
    for key in KEYS[table]:
        if key not in found:
            name = f"{table}.{key}" if table else key
            raise MachineError(f"{name} is missing: {where} needs {_list(KEYS[table])}")


def _figure(name: str, found: object) -> Figure:
    unit = FIGURES[name]
    if not isinstance(found, Mapping) or set(found) != {unit, "source"}:
        raise MachineError(f'{name} must be {{{unit} = NUMBER, source = "..."}}, not {found!r}')
    return Figure(found[unit], unit, _source(name, found["source"]))


def _clock(found: object) -> tuple[tuple[int, float], ...]:
    if not isinstance(found, list) or not all(isinstance(step, list) and len(step) == 2 for step in found):
        raise MachineError(f"clock.{CLOCK} must be [[cores, GHz], ...], not {found!r}")
    return tuple((cores, ghz) for cores, ghz in found)


def _source(what: str, found: Any) -> Any:
    if isinstance(found, str) and found.startswith(VARIED):
        raise MachineError(f"{what}: a file does not vary: say in source where the figure comes from")
    return found                # whatever it is: the machine refuses what is no source


def _kept(source: str) -> str:
    return _quoted(f"estimate: {source}" if source.startswith(VARIED) else source)


def _quoted(text: str) -> str:
    # JSON's strings are TOML's, but for DEL, which TOML wants escaped too
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _list(keys: Iterable[str]) -> str:
    return ", ".join(keys)
