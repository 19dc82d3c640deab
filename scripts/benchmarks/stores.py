"""Stores to measure against: a folder, MinIO, Azurite; each gone when its `with` block ends.

`start` gives a function that makes the environment of one run: with a store of its own, empty.
"""

import base64
import contextlib
import hashlib
import hmac
import http.client
import os
import subprocess
import time
from email.utils import formatdate

from .broker import end, free_port, listens
from .measure import Failed

USER, PASSWORD = "lakehead", "lakehead-secret"
# The well-known account of the emulator.
ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
START_SECONDS = 60


def start(kind, cache, work):
    known = {"local": local, "s3": minio, "azurite": azurite}
    if kind not in known:
        raise Failed(f"there is no store `{kind}`\nhint: one of {', '.join(known)}")
    return known[kind](cache, work)


@contextlib.contextmanager
def local(_cache, _work):
    yield lambda folder: {"LAKEHEAD_DATA_LAKE__URL": str(folder)}


@contextlib.contextmanager
def running(command, port, env, log):
    with open(log, "wb") as out:
        process = subprocess.Popen(
            command, env={**os.environ, **env}, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
        )
    try:
        until = time.monotonic() + START_SECONDS
        while not listens(port):
            if process.poll() is not None or time.monotonic() > until:
                raise Failed(f"{command[0]} does not start:\n{log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.05)
        yield
    finally:
        end(process)


@contextlib.contextmanager
def minio(cache, work):
    program, data, port = cache / "bin/minio", work / "minio", free_port()
    if not program.exists():
        raise Failed(f"MinIO is not in {program}\nhint: run scripts/setup tests, with Go on the PATH")
    # A folder that is there when it starts is a bucket.
    (data / "bench").mkdir(parents=True)
    env = {"MINIO_ROOT_USER": USER, "MINIO_ROOT_PASSWORD": PASSWORD}
    command = [str(program), "server", "--quiet", "--address", f"127.0.0.1:{port}", str(data)]
    turns = iter(range(10_000))
    with running(command, port, env, work / "minio.log"):
        time.sleep(2)
        yield lambda _: {
            "LAKEHEAD_DATA_LAKE__URL": f"s3://bench/{next(turns)}",
            "AWS_ACCESS_KEY_ID": USER,
            "AWS_SECRET_ACCESS_KEY": PASSWORD,
            "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
            "AWS_ALLOW_HTTP": "true",
        }


@contextlib.contextmanager
def azurite(cache, work):
    script, port = cache / "azurite/node_modules/azurite/dist/src/blob/main.js", free_port()
    if not script.exists():
        raise Failed(f"Azurite is not in {script}\nhint: run scripts/setup tests")
    options = ["--inMemoryPersistence", "--skipApiVersionCheck", "--silent", "--disableTelemetry"]
    command = ["node", str(script), "--blobHost", "127.0.0.1", "--blobPort", str(port), *options]
    turns = iter(range(10_000))
    with running(command, port, {}, work / "azurite.log"):
        time.sleep(1)
        container(port, "bench")
        connection = (
            f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT};AccountKey={KEY};"
            f"BlobEndpoint=http://127.0.0.1:{port}/{ACCOUNT};"
        )
        yield lambda _: {
            "LAKEHEAD_DATA_LAKE__URL": f"az://bench/{next(turns)}",
            "AZURE_STORAGE_CONNECTION_STRING": connection,
        }


def container(port, name):
    """Creates a container, signed with the shared key."""
    headers = {"x-ms-date": formatdate(usegmt=True), "x-ms-version": "2021-12-02"}
    signed = "".join(f"{key}:{value}\n" for key, value in headers.items())
    text = "PUT" + "\n" * 12 + f"{signed}/{ACCOUNT}/{ACCOUNT}/{name}\nrestype:container"
    digest = hmac.digest(base64.b64decode(KEY), text.encode(), hashlib.sha256)
    headers["Authorization"] = f"SharedKey {ACCOUNT}:{base64.b64encode(digest).decode()}"
    peer = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    peer.request("PUT", f"/{ACCOUNT}/{name}?restype=container", headers=headers)
    answer = peer.getresponse()
    if answer.status != 201:
        raise Failed(f"cannot create container {name}: {answer.status} {answer.read()[:500]}")
