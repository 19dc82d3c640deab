"""What an analyst feels: the same queries over two folders of Parquet, in DuckDB.

    analyst.py ROUNDS FOLDER...

Prints JSON: for each folder and query the seconds of each round and the bytes read. A query is planned and run anew in
each round; nothing is cached but by the operating system. Folders take turns. Bytes are what the process asked of the
system (`rchar`).
"""

import json
import os
import sys
import time

import duckdb

QUERIES = {
    "tenant-month": """
        SELECT count(*), avg(riskScore), max(epoch_us(eventTime)), count(DISTINCT opportunityId)
        FROM lake WHERE tenantId = $tenant AND year = $year AND month = $month""",
    "tenant-month, documents": """
        SELECT opportunityId, epoch_us(eventTime), riskScore, categoryScores, topDrivers
        FROM lake WHERE tenantId = $tenant AND year = $year AND month = $month""",
    "event by id": """
        SELECT * REPLACE (epoch_us(eventTime) AS eventTime) FROM lake WHERE eventId = $event""",
}


def bytes_read():
    with open("/proc/self/io", encoding="ascii") as lines:
        return int(lines.readline().split()[1])


def lake(folder):
    return f"(SELECT * FROM read_parquet('{folder}/**/*.parquet', hive_partitioning = true)) AS lake"


def ask(connection, folder, query, parameters):
    wanted = {name: value for name, value in parameters.items() if f"${name}" in query}
    before, began = bytes_read(), time.perf_counter()
    rows = connection.execute(query.replace("FROM lake", f"FROM {lake(folder)}"), wanted).fetchall()
    return time.perf_counter() - began, bytes_read() - before, rows


def main():
    rounds, folders = int(sys.argv[1]), sys.argv[2:]
    connection = duckdb.connect()
    connection.execute(f"SET threads = {os.cpu_count()}")
    sample = "SELECT tenantId, eventId, year, month FROM lake ORDER BY eventId LIMIT 1 OFFSET 1000"
    _, _, ((tenant, event, year, month),) = ask(connection, folders[0], sample, {})
    parameters = {"tenant": tenant, "event": event, "year": year, "month": month}
    found = {}
    for name, query in QUERIES.items():
        answers = set()
        by_folder = {folder: {"seconds": [], "bytes": []} for folder in folders}
        for turn in range(rounds + 1):
            for folder in folders:
                seconds, read, rows = ask(connection, folder, query, parameters)
                answers.add(len(rows) if name != "tenant-month" else (rows[0][0], round(rows[0][1], 9)))
                # The first round finds the pages on disk.
                if turn:
                    by_folder[folder]["seconds"].append(seconds)
                    by_folder[folder]["bytes"].append(read)
        if len(answers) != 1:
            sys.exit(f"{name}: the folders answer differently: {answers}")
        found[name] = by_folder
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
