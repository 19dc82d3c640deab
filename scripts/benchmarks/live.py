"""The live path: `run --until-empty` on a full queue, against a bare drain of the same queue."""

import shutil

from . import broker
from .measure import fresh, in_turns, run, size, spread, subject
from .setting import DATASET, expect_rows, say


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
        f"on an empty queue `run --until-empty` takes {idle:.2f} s: it watches it for half a second",
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
