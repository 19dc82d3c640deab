"""What is measured on files: one function for each subject, from a `Bench` to its figures."""

import json
import os
import shutil
from pathlib import Path

from . import stores
from .measure import Failed, Sample, fresh, in_turns, put_aside, run, size, subject
from .setting import DATASET, expect_rows, say

# Blobs that Lakehead has under way at once by default (`archive.concurrency`): as many has the bare loop of puts.
IN_A_FOLDER, ELSEWHERE = 512, 64


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

        def decoded():
            env = {"LAKEHEAD_DATA_LAKE__URL": str(fresh(work / "nothing"))}
            return run([bench.lakehead, "backfill", "--dry-run", "--layout", DATASET, source], work, env)

        def compressed():
            sample = run([bench.example("compress"), work / "lakehead"], work, keep_output=True)
            # The rest of its time is reading them.
            seconds = json.loads(sample.stdout)["seconds"]
            return Sample(seconds, seconds, 0, sample.rss)

        say(f"backfill of {bench.events:,} events, {title}")
        peers = {"lakehead": ours, "duckdb": duckdb}
        if kind == "30d":
            # DuckDB writes less here: no copy of the time as it was sent. And two floors, each on one core.
            peers |= {"duckdb, one time column": lambda: duckdb("--narrow")}
            peers |= {"lakehead, decoding only": decoded, "compressing only": compressed}
        taken = in_turns(bench.rounds, peers)
        bench.figures[f"backfill-{kind}"] = subject(
            f"Backfill of {bench.events:,} risk events, {title}", "events", bench.events, taken, against="duckdb"
        )
        put_aside(work)


def long(bench):
    """Ten times the input, in ten files: how time and memory grow."""
    work = bench.work("long")
    sources = [bench.risk("30d", bench.events, seed) for seed in range(1, 11)]

    def ours(sources):
        env = {"LAKEHEAD_DATA_LAKE__URL": str(fresh(work / "lakehead"))}
        return run([bench.lakehead, "backfill", "--layout", DATASET, *sources], work, env)

    say(f"backfill of {bench.events:,} events, and of ten times as many")
    taken = in_turns(bench.rounds, {"ten times": lambda: ours(sources), "once": lambda: ours(sources[:1])})
    title = f"Backfill of {bench.events:,} risk events, and of ten times as many"
    bench.figures["long"] = subject(title, "events", None, taken, ours="ten times", against="once")
    put_aside(work)


def mix(bench):
    """Every type of the catalog, where the configured consumers would land it: three Parquet datasets and blobs. Beside
    it as many bare puts as it has blobs: nobody who stores them takes less."""
    source = bench.mix(bench.events // 2)
    work = bench.work("mix")
    stored = 0

    def ours():
        nonlocal stored
        lake = fresh(work / "lakehead")
        sample = run([bench.lakehead, "backfill", source], work, {"LAKEHEAD_DATA_LAKE__URL": str(lake)})
        stored = size(lake / "ml_audit", ".json")[1]
        return sample

    def bare():
        command = [bench.example("blobs"), source, "--count", stored, "--concurrency", IN_A_FOLDER]
        return run(command, work, {"LAKEHEAD_DATA_LAKE__URL": str(fresh(work / "bare"))})

    def decoded():
        lake = fresh(work / "lakehead")
        command = [bench.lakehead, "backfill", "--dry-run", source]
        return run(command, work, {"LAKEHEAD_DATA_LAKE__URL": str(lake)})

    count = bench.events // 2
    say(f"backfill of {count:,} events of the whole catalog")
    peers = {"lakehead": ours, "bare puts": bare, "lakehead, decoding only": decoded}
    taken = in_turns(bench.rounds, peers)
    puts = {"bare puts": taken.pop("bare puts")}
    for samples in taken.values():
        for sample in samples:
            sample.more["per_cpu_s"] = count / (sample.user + sample.sys)
    title = f"Backfill of {count:,} events of the whole catalog"
    bench.figures["mix"] = subject(title, "events", count, taken)
    title = f"As many bare puts as {count:,} events of the whole catalog have blobs"
    bench.figures["mix-blobs"] = subject(title, "blobs", stored, puts, ours="bare puts")
    put_aside(work)


def archive(bench):
    """One create-only blob for each event, against a bare loop of such puts through the same client."""
    source = bench.risk("30d", bench.blobs)
    for kind in bench.stores:
        work = bench.work("archive")
        keys = work / "keys"
        run([bench.lakehead, "audit", "keygen", "--out", keys], work)
        with stores.start(kind, bench.cache, work) as place:

            def ours():
                command = [bench.lakehead, "backfill", "--layout", "ml_audit", source]
                return run(command, work, place(fresh(work / "lakehead") if kind == "local" else None))

            def bare():
                concurrency = IN_A_FOLDER if kind == "local" else ELSEWHERE
                command = [bench.example("blobs"), source, "--count", bench.blobs, "--concurrency", concurrency]
                return run(command, work, place(fresh(work / "bare") if kind == "local" else None))

            env = {}

            def signed():
                nonlocal env
                env = place(fresh(work / "signed") if kind == "local" else None)
                env |= {"LAKEHEAD_ARCHIVE__SIGNING_KEY_FILE": str(keys / "signing-key.pem")}
                env |= {"LAKEHEAD_ARCHIVE__TRUST_FILE": str(keys / "trust.json")}
                return run([bench.lakehead, "backfill", "--layout", "ml_audit", source], work, env)

            say(f"{bench.blobs:,} blobs, {kind}")
            taken = in_turns(bench.rounds, {"lakehead": ours, "bare puts": bare, "lakehead, with a key": signed})
            # Once, at the end: a store that is read whole is slower for a while, and that would count for who comes next.
            audited(bench, work, env, bench.blobs)
        title = f"Archive of {bench.blobs:,} blobs, {kind}"
        bench.figures[f"archive-{kind}"] = subject(title, "blobs", bench.blobs, taken, against="bare puts")
        # What the digests cost: the same two series, held against each other.
        pair = {name: samples for name, samples in taken.items() if name != "bare puts"}
        title = f"Archive of {bench.blobs:,} blobs, {kind}, with digests and without"
        bench.figures[f"digests-{kind}"] = subject(
            title, "blobs", bench.blobs, pair, ours="lakehead, with a key", against="lakehead"
        )
        put_aside(work)


def audited(bench, work, env, wanted):
    """What was signed must be the whole job: every blob named by a digest, and verified."""
    sample = run([bench.lakehead, "audit", "verify", "--json"], work, env, keep_output=True)
    report = json.loads(sample.stdout)
    if (report["verdict"], report["blobs"]) != ("verified", wanted):
        raise Failed(f"the archive is {report['verdict']} with {report['blobs']} blobs; expected {wanted}")
    return sample


def verify(bench):
    """`lakehead audit verify` of a local archive that Lakehead made, against `sha256sum` of the same blobs."""
    source = bench.risk("30d", bench.proofs)
    work = bench.work("verify")
    keys, lake = work / "keys", work / "lake"
    run([bench.lakehead, "audit", "keygen", "--out", keys], work)
    env = {
        "LAKEHEAD_DATA_LAKE__URL": str(lake),
        "LAKEHEAD_ARCHIVE__SIGNING_KEY_FILE": str(keys / "signing-key.pem"),
        "LAKEHEAD_ARCHIVE__TRUST_FILE": str(keys / "trust.json"),
    }
    say(f"archiving {bench.proofs:,} blobs")
    run([bench.lakehead, "backfill", "--layout", "ml_audit", source], work, env)
    files = "find lake -path '*/year=*' -type f -print0 | xargs -0"
    peers = {
        "lakehead": lambda: audited(bench, work, env, bench.proofs),
        "sha256sum": lambda: hashed(bench, work, f"{files} sha256sum"),
        "sha256sum on every core": lambda: hashed(bench, work, f"{files} -n 1000 -P {os.cpu_count()} sha256sum"),
    }
    # Nobody pays for a cold cache.
    hashed(bench, work, f"{files} sha256sum")
    say(f"verifying {bench.proofs:,} blobs")
    taken = in_turns(bench.rounds, peers)
    title = f"Verification of {bench.proofs:,} blobs"
    bench.figures["verify"] = subject(title, "blobs", bench.proofs, taken, against="sha256sum")
    put_aside(work)


def hashed(bench, work, command):
    sample = run(["sh", "-c", f"{command} | wc -l"], work, keep_output=True)
    if int(sample.stdout) != bench.proofs:
        raise Failed(f"sha256sum hashed {sample.stdout.strip()} files; expected {bench.proofs}")
    return sample


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
    put_aside(work)


def readers(bench):
    """Queries of an analyst over our files, against the same rows written by DuckDB's COPY."""
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
    put_aside(work)
