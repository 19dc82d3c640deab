"""What measurements need: programs, inputs, a place to work in."""

import json
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from .measure import Failed, fresh

ROOT = Path(__file__).resolve().parents[2]
DATASET = "risk_evaluations"

# An input is made once and kept: its name, and the arguments of scripts/generate-risk-events after N and OUT. The span
# of a thousand days ends in the past, so that no event is refused as one of the future.
RISK = {
    "30d": ["30", "--first-day", "2026-01-01"],
    "1000d": ["1000", "--shuffle", "--first-day", "2024-01-01"],
    "1d": ["1", "--first-day", "2026-01-01"],
}
# The moment before which the events of the catalog happened.
MIX_NOW = "2026-02-01T00:00:00Z"


def say(text):
    print(f"bench: {text}", file=sys.stderr, flush=True)


@dataclass
class Bench:
    """One run of scripts/bench."""

    cache: Path
    rounds: int
    programs: Path
    broker: str = ""
    queue_types: tuple = ("quorum", "classic")
    prefetch: int = 5_000
    consumers: int = 2
    events: int = 2_000_000
    live: tuple = (300_000, 1_000_000)
    rate: int = 22_000
    seconds: int = 600
    blobs: int = 20_000
    proofs: int = 1_000_000
    stores: tuple = ("local",)
    files: int = 100_000
    figures: dict = field(default_factory=dict)

    @property
    def folder(self):
        return self.cache / "bench"

    @property
    def lakehead(self):
        return self.programs / "lakehead"

    @property
    def python(self):
        return self.cache / "venv/bin/python"

    def example(self, name):
        return self.programs / "examples" / name

    def work(self, name):
        """A folder for one subject; whatever an earlier run left there is gone."""
        return fresh(self.folder / "work" / name)

    def risk(self, kind, count, seed=7):
        """The path of `count` risk events of a kind, made if they are not there."""
        path = self.folder / "inputs" / f"risk-{kind}-{count}-{seed}.ndjson"
        command = [ROOT / "scripts/generate-risk-events", count, "-", *RISK[kind], "--seed", seed]
        return made(path, command)

    def mix(self, count):
        """The path of `count` events, every type of the catalog equally often."""
        path = self.folder / "inputs" / f"mix-{count}.ndjson"
        options = ["--to", "stdout", "--count", str(count), "--seed", "7", "--now", MIX_NOW, "--log-level", "error"]
        return made(path, [self.lakehead, "publish", *options])


def made(path, command):
    if not path.exists():
        say(f"making {path.name}")
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        with open(part, "wb") as out:
            subprocess.run([str(c) for c in command], stdout=out, check=True, cwd=path.parent)
        part.rename(path)
    # Measured with the pages in memory, for every peer.
    with open(path, "rb", buffering=0) as pages:
        while pages.read(1 << 24):
            pass
    return path


EXAMPLES = ("drain", "blobs", "compress")


def build(cache):
    """Sets up and builds; the folder of the programs: Lakehead as it is released, what it is held against as Cargo builds
    it."""
    env = {**os.environ, "LAKEHEAD_CACHE": str(cache)}
    target = Path(env.setdefault("CARGO_TARGET_DIR", str(cache / "target")))
    subprocess.run([ROOT / "scripts/setup", "tests", "release"], check=True, env=env)
    built = subprocess.run([ROOT / "scripts/release"], check=True, env=env, stdout=subprocess.PIPE, text=True)
    examples = [word for name in EXAMPLES for word in ("--example", name)]
    subprocess.run(["cargo", "build", "--release", "--locked", *examples], cwd=ROOT, check=True, env=env)
    programs = Path(built.stdout.strip()).parent
    (programs / "examples").mkdir(exist_ok=True)
    for name in EXAMPLES:
        shutil.copy2(target / "release/examples" / name, programs / "examples")
    return programs


def machine(bench):
    """What was measured on, and with."""
    cpu = "unknown"
    memory = 0
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            cpu = line.partition(":")[2].strip()
            break
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemTotal"):
            memory = int(line.split()[1]) * 1024
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "memory_bytes": memory,
        "kernel": platform.release(),
        "lakehead": said([bench.lakehead, "--version"]),
        "rustc": said(["rustc", "--version"]),
        "duckdb": said([bench.python, "-c", "import duckdb; print(duckdb.__version__)"]),
    }


def said(command):
    try:
        done = subprocess.run([str(c) for c in command], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()


def rows(bench, folder, distinct="eventId"):
    """Rows and distinct ids in a folder of Parquet, as DuckDB counts them: what was measured must be the whole job."""
    # A query that takes long would draw its progress into the answer.
    script = (
        "import duckdb, json, sys; duckdb.execute('SET enable_progress_bar = false'); "
        "print(json.dumps(duckdb.sql(f\"SELECT count(*), count(DISTINCT {sys.argv[2]}) "
        "FROM read_parquet('{sys.argv[1]}/**/*.parquet')\").fetchone()))"
    )
    return tuple(json.loads(said([bench.python, "-c", script, folder, distinct])))


def expect_rows(bench, folder, count):
    found = rows(bench, folder)
    if found != (count, count):
        raise Failed(f"{folder}: {found[0]} rows, {found[1]} distinct; expected {count}")
