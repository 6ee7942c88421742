"""What people see of a comparison."""

from __future__ import annotations

from typing import Any

from rich.console import Console

COLUMNS = 4


def show(document: dict[str, Any], out: Console, coverage: bool = False) -> None:
    """Prints a document: each divergence as a program with both outcomes, then one line."""
    for number, one in enumerate(document["divergences"], 1):
        out.print(f"{number}. {one['name']} ({one['scheme']})", style="bold", markup=False)
        for line in one["program"].splitlines():
            out.print(f"   {line}", markup=False, soft_wrap=True)
        for line in one["differences"]:
            out.print(f"   -> {line}", style="red", markup=False, soft_wrap=True)
    if coverage:
        for section, counts in document["coverage"].items():
            out.print(f"{section}:", style="bold")
            cells = [f"{name} {count:,}" for name, count in counts.items()]
            for at in range(0, len(cells), COLUMNS):
                out.print("  " + "".join(f"{cell:<31}" for cell in cells[at : at + COLUMNS]).rstrip(), markup=False)
    for warning in document["warnings"]:
        out.print(f"warning: {warning}", style="yellow", markup=False)
    out.print(summary(document), style="bold red" if document["divergences"] else "bold", markup=False, soft_wrap=True)


def summary(document: dict[str, Any]) -> str:
    """The line at the end."""
    differ = document["diverging_programs"]
    verdict = (f"{differ} differ, in {len(document['divergences'])} ways" if differ else "no divergence")
    cut = "interrupted: " if document.get("interrupted") else ""
    return (f"{cut}{document['programs']:,} programs, {document['operations']:,} operations on Linux "
            f"{document['kernel']} and natively under {', '.join(document['schemes'])}: {verdict} "
            f"({document['seconds']:.0f} s)")
