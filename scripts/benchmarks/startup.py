"""How long the start takes: from the start of the process to the first `basic.consume`; and how large the program is."""

import socket
import subprocess
import threading
import time

from . import broker
from .live import live_config
from .measure import Failed, Sample, fresh, put_aside, spread, subject


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
    put_aside(work)


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
