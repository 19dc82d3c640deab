"""The live path: a full queue drained, against a bare drain of it; and how long an event takes to the lake."""

import csv
import json
import os
import signal
import subprocess
import time

from . import broker
from .measure import Failed, Sample, at_rest, fresh, in_turns, put_aside, run, size, spread, subject
from .setting import DATASET, expect_rows, said, say

# Seconds that a file stays open at most while latency is measured.
AGE = 5


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
        # A quorum queue goes on for a while: it moves what it logged into segments.
        at_rest()
        return queue

    def bare():
        queue = filled()
        limits = ["--prefetch", bench.prefetch, "--consumers", bench.consumers]
        return run([bench.example("drain"), "consume", url, queue, *shape, *limits], work)

    def ours(queue=None):
        lake = fresh(work / "lake")
        queue = queue or filled()
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
        f"on an empty queue `run --until-empty` takes {idle:.2f} s: it watches it for half a second",
    ]
    title = f"{count:,} events from a {queue_type} queue"
    figures = subject(title, "events", count, taken, against="bare drain", notes=notes)
    bench.figures[f"live-{queue_type}-{count}"] = figures
    put_aside(work)


def latency(bench):
    """From publish to readable in the lake, at an even rate. A file is closed when it is `AGE` old, or by what comes first."""
    count = bench.rate * bench.seconds
    source = bench.risk("1d", 300_000)
    work = bench.work("latency")
    lake, times, config = work / "lake", work / "times.csv", work / "lakehead.toml"
    with broker.start(bench.cache, bench.broker) as (url, version):
        queue = "bench.latency"
        shape = ["--queue-type", "quorum", "--count", count]
        config.write_text(live_config(bench, url, queue, "quorum", lake) + f'[roll]\nage = "{AGE}s"\n')
        # Declares the queue.
        run([bench.lakehead, "run", "--until-empty", "--config", config], work)
        say(f"{bench.rate:,} events a second for {bench.seconds} s, RabbitMQ {version}")
        began = time.perf_counter()
        command = [str(bench.lakehead), "run", "--config", str(config)]
        process = subprocess.Popen(command, cwd=work, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            pace = ["pace", url, queue, *shape, "--rate", bench.rate, "--events", source, "--times", times]
            sent = json.loads(run([bench.example("drain"), *pace], work, keep_output=True).stdout)
        finally:
            process.send_signal(signal.SIGTERM)
            ended = process.wait()
        wall = time.perf_counter() - began
    if ended != 0:
        raise Failed(f"lakehead ended with {ended}")
    expect_rows(bench, lake / DATASET, count)
    late = sorted(lateness(bench, lake / DATASET, times))
    if len(late) != -(-count // 64):
        raise Failed(f"{len(late):,} of the noted events are in the lake")
    at = lambda share: late[min(int(len(late) * share), len(late) - 1)]  # noqa: E731
    numbers = {f"latency_{name}": at(share) for name, share in (("p50", 0.5), ("p99", 0.99), ("max", 1))}
    sample = Sample(wall, 0, 0, 0, {**numbers, "files": size(lake / DATASET, ".parquet")[1]})
    title = f"Publish to lake at {bench.rate:,} events a second"
    notes = [
        f"RabbitMQ {version}, quorum queue, prefetch {bench.prefetch} x {bench.consumers}, roll age {AGE} s",
        f"sent {sent['rate']:,.0f} a second for {bench.seconds} s; of every 64th, from when it was due to be sent",
    ]
    figures = subject(title, "events", None, {"lakehead": [sample]}, notes=notes)
    for nothing in ("cpu_s", "user_s", "sys_s", "rss_bytes"):
        del figures["peers"]["lakehead"][nothing]
    bench.figures["latency"] = figures
    put_aside(work)


def lateness(bench, folder, times):
    """Seconds from the publish of each noted event to the moment when its file had its name."""
    with open(times) as rows:
        due = {int(number): int(at) for number, at in csv.reader(rows)}
    # The last group of an id is the event's number.
    script = (
        "import duckdb, json, sys; print(json.dumps(duckdb.sql(\"SELECT filename, list(n) FROM (SELECT filename, "
        "CAST(right(eventId, 12) AS BIGINT) AS n FROM read_parquet('\" + sys.argv[1] + \"/**/*.parquet', filename = true)) "
        "WHERE n % 64 = 0 GROUP BY 1\").fetchall()))"
    )
    for name, found in json.loads(said([bench.python, "-c", script, folder])):
        # What puts a file under its name changes its inode last.
        readable = os.stat(name).st_ctime
        yield from (readable - due[number] / 1e6 for number in found)


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
