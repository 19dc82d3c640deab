"""What is measured: one function for each subject, from a `Bench` to its figures."""

import shutil
import socket
import subprocess
import threading
import time
from pathlib import Path

from . import broker, stores
from .measure import Failed, Sample, fresh, in_turns, run, size, spread, subject
from .setting import expect_rows, say

DATASET = "risk_evaluations"


def backfill(bench):
    """NDJSON to Parquet by day, against DuckDB's COPY with PARTITION_BY."""
    for kind, title in (("30d", "30 days in order"), ("1000d", "1,000 days shuffled")):
        source = bench.risk(kind, bench.events)
        work = bench.work("backfill")
        copy = [bench.python, Path(__file__).with_name("duckdb_copy.py"), source]

        def ours():
            lake = fresh(work / "lakehead")
            env = {"LAKEHEAD_DATA_LAKE__URL": str(lake)}
            sample = run([bench.lakehead, "backfill", "--layout", DATASET, source], work, env)
            return counted(sample, lake / DATASET)

        def duckdb(*options):
            target = fresh(work / "duckdb")
            return counted(run([*copy, target, *options], work), target)

        def counted(sample, folder):
            expect_rows(bench, folder, bench.events)
            sample.more["output_bytes"], sample.more["files"] = size(folder, ".parquet")
            return sample

        say(f"backfill of {bench.events:,} events, {title}")
        peers = {"lakehead": ours, "duckdb": duckdb, "duckdb, one time column": lambda: duckdb("--narrow")}
        if kind != "30d":
            # A thousand open writers: DuckDB writes the smaller of its two tables only.
            peers = {"lakehead": ours, "duckdb": duckdb}
        taken = in_turns(bench.rounds, peers)
        bench.figures[f"backfill-{kind}"] = subject(
            f"Backfill of {bench.events:,} risk events, {title}", "events", bench.events, taken, against="duckdb"
        )
        shutil.rmtree(work)


def long(bench):
    """Ten times the input, in ten files: how time and memory grow."""
    work = bench.work("long")
    taken = {}
    for name, times in (("once", 1), ("ten times", 10)):
        sources = [long_input(bench, seed) for seed in range(1, times + 1)]

        def ours(sources=sources):
            lake = fresh(work / "lakehead")
            env = {"LAKEHEAD_DATA_LAKE__URL": str(lake)}
            return run([bench.lakehead, "backfill", "--layout", DATASET, *sources], work, env)

        say(f"backfill of {times} × {bench.events:,} events")
        taken.update(in_turns(bench.rounds if times == 1 else min(bench.rounds, 2), {name: ours}))
    title = f"Backfill of {bench.events:,} risk events, and of ten times as many"
    bench.figures["long"] = subject(title, "events", None, taken, ours="ten times", against="once")
    shutil.rmtree(work)


def long_input(bench, seed):
    from .setting import RISK, ROOT, made

    path = bench.folder / "inputs" / f"risk-30d-{bench.events}-seed{seed}.ndjson"
    command = [ROOT / "scripts/generate-risk-events", bench.events, "-", *RISK["30d"], "--seed", seed]
    return made(path, command)


def mix(bench):
    """Every type of the catalog, where the configured consumers would land it: three Parquet datasets and blobs."""
    source = bench.mix(bench.events // 2)
    work = bench.work("mix")

    def ours():
        lake = fresh(work / "lakehead")
        return run([bench.lakehead, "backfill", source], work, {"LAKEHEAD_DATA_LAKE__URL": str(lake)})

    def decoded():
        lake = fresh(work / "lakehead")
        command = [bench.lakehead, "backfill", "--dry-run", source]
        return run(command, work, {"LAKEHEAD_DATA_LAKE__URL": str(lake)})

    count = bench.events // 2
    say(f"backfill of {count:,} events of the whole catalog")
    taken = in_turns(bench.rounds, {"lakehead": ours, "lakehead, decoding only": decoded})
    for samples in taken.values():
        for sample in samples:
            sample.more["per_cpu_s"] = count / (sample.user + sample.sys)
    title = f"Backfill of {count:,} events of the whole catalog"
    bench.figures["mix"] = subject(title, "events", count, taken)
    shutil.rmtree(work)


def live(bench):
    """`run --until-empty` on a full queue, against a bare drain with the same queue type, prefetch and consumers."""
    with broker.start(bench.cache, bench.broker) as (url, version):
        say(f"RabbitMQ {version}")
        for queue_type in bench.queue_types:
            for count in bench.live:
                live_run(bench, url, version, queue_type, count)


def live_run(bench, url, version, queue_type, count):
    source = bench.risk("1d", max(bench.live))
    work = bench.work("live")
    shape = ["--queue-type", queue_type, "--count", count]
    turn = iter(range(10_000))

    def filled():
        queue = f"bench.{queue_type}.{next(turn)}"
        run([bench.example("drain"), "publish", url, queue, *shape, "--events", source], work)
        return queue

    def bare():
        queue = filled()
        limits = ["--prefetch", bench.prefetch, "--consumers", bench.consumers]
        return run([bench.example("drain"), "consume", url, queue, *shape, *limits], work)

    def ours(queue=None):
        queue = queue or filled()
        lake = fresh(work / "lake")
        sample = run([bench.lakehead, "run", "--until-empty", "--config", config(queue)], work)
        if queue != "bench.empty":
            expect_rows(bench, lake / DATASET, count)
            sample.more["files"] = size(lake / DATASET, ".parquet")[1]
        return sample

    def config(queue):
        path = work / "lakehead.toml"
        path.write_text(live_config(bench, url, queue, queue_type, work / "lake"))
        return path

    say(f"{count:,} events from a {queue_type} queue, prefetch {bench.prefetch} x {bench.consumers}")
    taken = in_turns(bench.rounds, {"lakehead": ours, "bare drain": bare})
    # What it takes to start, to see that a queue is empty and stays so, and to leave.
    empty = in_turns(bench.rounds, {"lakehead": lambda: ours("bench.empty")})["lakehead"]
    idle = spread([s.wall for s in empty])["median"]
    for samples in taken.values():
        for sample in samples:
            sample.more["cpu_s_per_million"] = (sample.user + sample.sys) * 1e6 / count
    for sample in taken["lakehead"]:
        sample.more["per_s_less_idle"] = count / (sample.wall - idle)
    for sample in taken["bare drain"]:
        sample.more["per_s_less_idle"] = count / sample.wall
    notes = [
        f"RabbitMQ {version}, prefetch {bench.prefetch} x {bench.consumers} consumers, broker on the same cores",
        f"on an empty queue `run --until-empty` takes {idle:.2f} s: it looks twice, a second apart",
    ]
    title = f"{count:,} events from a {queue_type} queue"
    figures = subject(title, "events", count, taken, against="bare drain", notes=notes)
    bench.figures[f"live-{queue_type}-{count}"] = figures
    shutil.rmtree(work)


def live_config(bench, url, queue, queue_type, lake):
    return f"""
[rabbitmq]
url = "{url}"
exchange = "bench.events"
queue_type = "{queue_type}"
prefetch = {bench.prefetch}
consumers = {bench.consumers}
[rabbitmq.data_lake]
queue = "{queue}"
bindings = ["risk.evaluated"]
layouts = ["{DATASET}"]
[data_lake]
url = "{lake}"
[http]
listen = ""
"""


def archive(bench):
    """One create-only blob for each event, against a bare loop of such puts through the same client."""
    source = bench.risk("30d", bench.blobs)
    for kind in bench.stores:
        work = bench.work("archive")
        with stores.start(kind, bench.cache, work) as place:

            def ours():
                command = [bench.lakehead, "backfill", "--layout", "ml_audit", source]
                return run(command, work, place(fresh(work / "lakehead") if kind == "local" else None))

            def bare():
                command = [bench.example("blobs"), source, "--count", bench.blobs, "--concurrency", 64]
                return run(command, work, place(fresh(work / "bare") if kind == "local" else None))

            say(f"{bench.blobs:,} blobs, {kind}")
            taken = in_turns(bench.rounds, {"lakehead": ours, "bare puts": bare})
        title = f"Archive of {bench.blobs:,} blobs, {kind}"
        bench.figures[f"archive-{kind}"] = subject(title, "blobs", bench.blobs, taken, against="bare puts")
        shutil.rmtree(work)


def status(bench):
    """`lakehead status` on many small files, against DuckDB counting rows in the same files."""
    work = bench.work("status")
    lake = work / "lake"
    env = {"LAKEHEAD_DATA_LAKE__URL": str(lake)}
    small = bench.risk("30d", 3_000)
    run([bench.lakehead, "backfill", "--layout", DATASET, small], work, env)
    made = sorted((lake / DATASET).rglob("*.parquet"))
    each = bench.files // len(made)
    say(f"copying {len(made)} files to {each * len(made):,}")
    for path in made:
        writer = path.name.rpartition("-")[0]
        for n in range(1, each):
            shutil.copyfile(path, path.with_name(f"{writer}-{n:06}.parquet"))
    count = (
        "import duckdb, sys; print(duckdb.sql(f\"SELECT count(*) FROM read_parquet('{sys.argv[1]}/**/*.parquet')\"))"
    )
    peers = {
        "lakehead": lambda: run([bench.lakehead, "status", "--json"], work, env),
        "duckdb": lambda: run([bench.python, "-c", count, lake / DATASET], work),
    }
    say(f"status of {each * len(made):,} files")
    taken = in_turns(bench.rounds, peers)
    title = f"Status of {each * len(made):,} files"
    bench.figures["status"] = subject(title, "files", each * len(made), taken, against="duckdb")
    shutil.rmtree(work)


def readers(bench):
    """Queries of an analyst over our files, against the same rows written by DuckDB's COPY."""
    import json

    source = bench.risk("30d", bench.events)
    work = bench.work("readers")
    folders = {"lakehead": work / "lake" / DATASET, "duckdb": work / "duckdb"}
    env = {"LAKEHEAD_DATA_LAKE__URL": str(work / "lake")}
    run([bench.lakehead, "backfill", "--layout", DATASET, source], work, env)
    run([bench.python, Path(__file__).with_name("duckdb_copy.py"), source, folders["duckdb"]], work)
    say("queries over both")
    command = [bench.python, Path(__file__).with_name("analyst.py"), max(bench.rounds, 5), *folders.values()]
    found = json.loads(run(command, work, keep_output=True).stdout)
    for query, by_folder in found.items():
        taken = {}
        for name, folder in folders.items():
            numbers = by_folder[str(folder)]
            pairs = zip(numbers["seconds"], numbers["bytes"], strict=True)
            taken[name] = [Sample(s, 0, 0, 0, {"read_bytes": read}) for s, read in pairs]
        figures = subject(f"DuckDB query: {query}", "queries", 1, taken, against="duckdb")
        for numbers in figures["peers"].values():
            for nothing in ("cpu_s", "user_s", "sys_s", "rss_bytes"):
                del numbers[nothing]
        bench.figures[f"query-{query.replace(', ', '-').replace(' ', '-')}"] = figures
    shutil.rmtree(work)


def start(bench):
    """From the start of the process to the first `basic.consume`; and how large the program is."""
    work = bench.work("start")
    with broker.start(bench.cache, bench.broker) as (url, version):
        port = int(url.rpartition(":")[2].partition("/")[0])
        seconds = []
        for _ in range(max(bench.rounds, 5) + 1):
            fresh(work / "lake")
            with Spy(port) as spy:
                path = work / "lakehead.toml"
                through = url.replace(f":{port}/", f":{spy.port}/")
                path.write_text(live_config(bench, through, "bench.start", "quorum", work / "lake"))
                began = time.perf_counter()
                command = [str(bench.lakehead), "run", "--config", str(path)]
                process = subprocess.Popen(
                    command, cwd=work, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
                )
                seconds.append(spy.consumed(began))
                process.terminate()
                process.wait()
    # The first round declares the queue.
    samples = [Sample(s, 0, 0, 0) for s in seconds[1:]]
    figures = subject("Start to first pull", "starts", None, {"lakehead": samples})
    stripped = work / "stripped"
    subprocess.run(["strip", "-o", stripped, bench.lakehead], check=True)
    figures["notes"] = [
        f"RabbitMQ {version}; seen by a proxy before the broker",
        f"program: {bench.lakehead.stat().st_size / 2**20:.1f} MiB with line tables,"
        f" {stripped.stat().st_size / 2**20:.1f} MiB without",
    ]
    figures["peers"]["lakehead"] = {
        "wall_s": figures["peers"]["lakehead"]["wall_s"],
        "program_bytes": spread([bench.lakehead.stat().st_size]),
        "stripped_bytes": spread([stripped.stat().st_size]),
    }
    bench.figures["start"] = figures
    shutil.rmtree(work)


class Spy:
    """A proxy before the broker that notes when the first `basic.consume` goes by."""

    # A method frame's class 60, method 20.
    CONSUME = b"\x00\x3c\x00\x14"

    def __init__(self, upstream):
        self.upstream = upstream
        self.seen = threading.Event()
        self.at = 0.0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]

    def __enter__(self):
        threading.Thread(target=self.accept, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.listener.close()

    def accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self.upstream))
            for end in (client, server):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self.pass_on, args=(client, server, True), daemon=True).start()
            threading.Thread(target=self.pass_on, args=(server, client, False), daemon=True).start()

    def pass_on(self, source, target, watched):
        try:
            while data := source.recv(65536):
                if watched and not self.seen.is_set() and self.CONSUME in data:
                    self.at = time.perf_counter()
                    self.seen.set()
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def consumed(self, began):
        if not self.seen.wait(30):
            raise Failed("lakehead run did not consume within 30 s")
        return self.at - began
