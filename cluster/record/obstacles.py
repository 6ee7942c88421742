"""What keeps this machine from recording: one line, with the fix."""

from __future__ import annotations

import os
import platform
import shutil

from shmm.cluster.record import perf

MOUNTS = "/proc/mounts"
PARANOID = "/proc/sys/kernel/perf_event_paranoid"
USUAL = "/sys/kernel/tracing"


def find() -> str | None:
    """Why recording is impossible here and what to do about it; None if nothing is known to be in the way."""
    if shutil.which("perf") is None:
        return "there is no perf: install it (Debian: apt install linux-perf; Fedora: dnf install perf)"
    if os.geteuid() != 0 and paranoia() > -1:
        return ("tracepoints need root: run it with sudo, or let everybody trace "
                f"(sysctl kernel.perf_event_paranoid=-1, and read permission for {USUAL})")
    folder = tracefs()
    if folder is None:
        return f"tracefs is not mounted: mount -t tracefs tracefs {USUAL}"
    if not os.access(f"{folder}/events", os.R_OK | os.X_OK):
        return f"{folder}/events cannot be read: run it with sudo, or mount tracefs with read permission (gid=, mode=)"
    lacking = [event for event in perf.REQUIRED if not has_event(folder, event)]
    if lacking:
        what = "page faults are traced on x86 alone" if platform.machine() != "x86_64" else \
            "its kernel was built without (CONFIG_FTRACE_SYSCALLS)"
        return f"this kernel has no tracepoint {lacking[0]}: {what}; record on another machine, and replay here"
    return None


def paranoia() -> int:
    """kernel.perf_event_paranoid; 4, more than any kernel has, where it cannot be read."""
    try:
        with open(PARANOID) as file:
            return int(file.read())
    except (OSError, ValueError):
        return 4


def tracefs() -> str | None:
    """Where tracefs is mounted, by itself or below debugfs."""
    found = None
    try:
        with open(MOUNTS) as lines:
            for line in lines:
                _, where, kind, *_ = line.split()
                if kind == "tracefs":
                    return where
                if kind == "debugfs" and os.path.isdir(f"{where}/tracing/events"):
                    found = f"{where}/tracing"
    except OSError:
        return None
    return found


def has_event(folder: str, event: str) -> bool:
    """Whether the kernel has this tracepoint, written group:name."""
    return os.path.isdir(f"{folder}/events/{event.replace(':', '/')}")


def program_status(name: str) -> tuple[int, str]:
    """(0, "") if there is such a program; else the shell's exit status and what is wrong."""
    if shutil.which(name) is not None:
        return 0, ""
    if os.sep in name and os.path.exists(name):
        return 126, f"{name}: {'is a directory' if os.path.isdir(name) else 'not executable'}"
    return 127, f"{name}: no such program" + ("" if os.sep in name else " in PATH")
