"""A private RabbitMQ with its own folder, ports, cookie and epmd, gone when the `with` block ends."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

from .measure import Failed

CHROOTS = {"4.0": "trixie", "4.3": "sid"}
START_SECONDS = 120


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def listens(port):
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Install:
    """Where the broker's programs are: this machine's own, or those of a chroot (see scripts/broker-chroot)."""

    def __init__(self, version, cache):
        self.root = None
        if version in CHROOTS:
            self.root = cache / "chroots" / CHROOTS[version]
            if not (self.root / "usr/lib/rabbitmq/bin").is_dir():
                raise Failed(f"RabbitMQ {version} is not in {self.root}\nhint: run scripts/setup brokers")
            return
        self.programs = Path("/usr/lib/rabbitmq/bin")
        if not (self.programs / "rabbitmq-server").exists():
            found = shutil.which("rabbitmq-server")
            if not found:
                raise Failed("rabbitmq-server is not on the PATH\nhint: run scripts/setup tests")
            self.programs = Path(found).parent

    def folder(self):
        return Path(tempfile.mkdtemp(prefix="lakehead-bench-", dir=self.root / "tmp" if self.root else None))

    def inside(self, path):
        return f"/{path.relative_to(self.root)}" if self.root else str(path)

    def command(self, program):
        if self.root is None:
            return ["epmd"] if program == "epmd" else [str(self.programs / program)]
        inner = "epmd" if program == "epmd" else f"/usr/lib/rabbitmq/bin/{program}"
        script = 'mount -t proc proc "$1/proc"; exec chroot "$@"'
        return ["unshare", "--mount", "/bin/sh", "-c", script, "chroot", str(self.root), inner]


def spawn(command, env, folder, name):
    log = open(folder / f"{name}.log", "ab")
    with log:
        return subprocess.Popen(
            command, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )


def end(process):
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@contextlib.contextmanager
def start(cache, version=""):
    """Starts a broker; gives its URL and version."""
    install = Install(version, cache)
    folder = install.folder()
    home = install.inside(folder)
    epmd_port, amqp, distribution = free_port(), free_port(), free_port()
    conf = [
        f"listeners.tcp.1 = 127.0.0.1:{amqp}",
        "log.console = true",
        "log.console.level = warning",
        "log.file = false",
        "disk_free_limit.absolute = 50MB",
    ]
    (folder / "rabbitmq.conf").write_text("\n".join(conf) + "\n")
    (folder / "enabled_plugins").write_text("[].\n")
    (folder / "rabbitmq-env.conf").write_text("")
    (folder / ".erlang.cookie").write_text("lakehead-bench")
    (folder / ".erlang.cookie").chmod(0o400)
    env = {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "LANG": "C.UTF-8",
        "HOME": home,
        "ERL_EPMD_PORT": str(epmd_port),
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "RABBITMQ_NODENAME": f"bench{amqp}@localhost",
        "RABBITMQ_DIST_PORT": str(distribution),
        "RABBITMQ_CONFIG_FILE": f"{home}/rabbitmq.conf",
        "RABBITMQ_ADVANCED_CONFIG_FILE": f"{home}/advanced.config",
        "RABBITMQ_CONF_ENV_FILE": f"{home}/rabbitmq-env.conf",
        "RABBITMQ_ENABLED_PLUGINS_FILE": f"{home}/enabled_plugins",
        "RABBITMQ_MNESIA_BASE": f"{home}/data",
        "RABBITMQ_LOG_BASE": f"{home}/log",
        "RABBITMQ_PID_FILE": f"{home}/pid",
        # The start script becomes the Erlang machine itself.
        "RUNNING_UNDER_SYSTEMD": "true",
    }
    running = []
    try:
        epmd = install.command("epmd") + ["-port", str(epmd_port), "-address", "127.0.0.1"]
        running.append(spawn(epmd, env, folder, "epmd"))
        running.append(spawn(install.command("rabbitmq-server"), env, folder, "rabbitmq"))
        until = time.monotonic() + START_SECONDS
        while not (found := greeting(amqp)):
            if running[1].poll() is not None or time.monotonic() > until:
                tail = (folder / "rabbitmq.log").read_text(errors="replace")[-2000:]
                raise Failed(f"rabbitmq-server does not start:\n{tail}")
            time.sleep(0.1)
        yield f"amqp://guest:guest@127.0.0.1:{amqp}/%2f", found
    finally:
        for process in reversed(running):
            end(process)
        shutil.rmtree(folder, ignore_errors=True)


def greeting(port):
    """The version with which a broker greets, or None."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as peer:
            peer.sendall(b"AMQP\x00\x00\x09\x01")
            answer = peer.recv(8192)
    except OSError:
        return None
    at = answer.find(b"\x07versionS")
    if at < 0:
        return None
    length = int.from_bytes(answer[at + 9 : at + 13], "big")
    return answer[at + 13 : at + 13 + length].decode()
