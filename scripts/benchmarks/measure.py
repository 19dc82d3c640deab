"""Running one command and knowing what it took; running several in turns."""

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median


# Longest that one run may take: what hangs is a finding, not a figure.
LIMIT_SECONDS = 900


class Failed(Exception):
    """A measurement that cannot be taken; its text says why and what to do."""


@dataclass
class Sample:
    """What one run of one program took."""

    wall: float
    """Seconds from start to exit."""
    user: float
    """CPU seconds of the process itself."""
    sys: float
    """CPU seconds of the kernel for the process."""
    rss: int
    """Largest resident memory, in bytes."""
    more: dict = field(default_factory=dict)
    """Further numbers, by name: output bytes, events per second as the program itself saw them, ..."""
    stdout: str = ""


def run(command, cwd, env=None, keep_output=False):
    """Runs a command to its end; the sample. Its stdout is left in `cwd`, as stdout.log; its stderr is shown if it fails."""
    command = [str(part) for part in command]
    environment = {**os.environ, **(env or {})}
    log = Path(cwd) / "stderr.log"
    out = Path(cwd) / "stdout.log"
    with open(log, "wb") as stderr, open(out, "wb") as stdout:
        began = time.perf_counter()
        process = subprocess.Popen(
            command, cwd=cwd, env=environment, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr
        )
        watch = threading.Timer(LIMIT_SECONDS, os.kill, (process.pid, signal.SIGKILL))
        watch.start()
        try:
            _, status, usage = os.wait4(process.pid, 0)
            wall = time.perf_counter() - began
        finally:
            watch.cancel()
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        tail = log.read_text(errors="replace")[-3000:]
        raise Failed(f"{' '.join(command)}\nended with {process.returncode}:\n{tail}")
    text = out.read_text(errors="replace") if keep_output else ""
    return Sample(wall, usage.ru_utime, usage.ru_stime, usage.ru_maxrss * 1024, stdout=text)


def put_aside(folder):
    """Moves a folder out of the way and empties its files. They are deleted when the bench ends: a file system without a
    journal passes over the inodes of files that were deleted in the last minutes, one by one, so that whoever writes
    many files next would take twice as long."""
    folder = Path(folder)
    if not folder.exists():
        return
    aside = folder.rename(folder.with_name(f"{folder.name}.{time.time_ns()}"))
    for root, _, names in os.walk(aside):
        for name in names:
            path = os.path.join(root, name)
            if os.path.isfile(path) and not os.path.islink(path):
                os.chmod(path, 0o600)
                os.truncate(path, 0)


def fresh(folder):
    """An empty folder; waits until the disk has nothing left to do for earlier runs."""
    put_aside(folder)
    Path(folder).mkdir(parents=True)
    os.sync()
    return Path(folder)


def at_rest(patience=30):
    """Waits until processors and disk have nothing to do any more for what came before, or says that they still have."""
    ends = time.monotonic() + patience
    while time.monotonic() < ends:
        before = processor_ticks()
        time.sleep(0.5)
        after = processor_ticks()
        busy, idle = (b - a for a, b in zip(before, after, strict=True))
        if busy <= 0.05 * (busy + idle):
            return
    print(f"bench: this machine is not at rest after {patience} s", file=sys.stderr, flush=True)


def processor_ticks():
    """Ticks in which this machine's processors worked, and in which they did not."""
    with open("/proc/stat") as stat:
        ticks = [int(word) for word in stat.readline().split()[1:9]]
    # Waiting for the disk is work.
    return sum(ticks) - ticks[3], ticks[3]


def size(folder, suffix=""):
    """Bytes and number of the files in a folder whose names end so."""
    total = count = 0
    for root, _, names in os.walk(folder):
        for name in names:
            if name.endswith(suffix):
                total += os.path.getsize(os.path.join(root, name))
                count += 1
    return total, count


def in_turns(rounds, peers):
    """Runs every peer in turns, A B A B, so that whatever the machine does meets all of them.

    `peers` maps a name to a function that takes one sample. Returns name to list of samples.
    """
    taken = {name: [] for name in peers}
    for turn in range(rounds):
        for name, sample in peers.items():
            taken[name].append(sample())
            last = taken[name][-1]
            print(
                f"  {turn + 1}/{rounds} {name:<24} {last.wall:8.3f} s wall {last.user + last.sys:8.3f} s CPU"
                f" {last.rss / 2**20:7.0f} MiB",
                file=sys.stderr,
                flush=True,
            )
    return taken


def spread(values):
    """Smallest, middle and largest."""
    return {"min": min(values), "median": median(values), "max": max(values)}


def subject(title, unit, count, taken, ours="lakehead", against=None, notes=None):
    """A measured subject, as it is stored: every number of every peer as min, median, max.

    `unit` and `count` make throughputs: `count` units per run. `against` is the peer that the ratios are taken to.
    """
    peers = {}
    for name, samples in taken.items():
        numbers = {
            "wall_s": spread([s.wall for s in samples]),
            "cpu_s": spread([s.user + s.sys for s in samples]),
            "user_s": spread([s.user for s in samples]),
            "sys_s": spread([s.sys for s in samples]),
            "rss_bytes": spread([s.rss for s in samples]),
        }
        for key in samples[0].more:
            numbers[key] = spread([s.more[key] for s in samples])
        if count:
            numbers["per_s"] = spread([count / s.wall for s in samples])
        peers[name] = numbers
    return {
        "title": title,
        "unit": unit,
        "count": count,
        "rounds": len(next(iter(taken.values()))),
        "ours": ours,
        "against": against,
        "notes": notes or [],
        "peers": peers,
    }
