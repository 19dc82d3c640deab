"""The peer of `lakehead backfill`: DuckDB reads the same NDJSON and writes the same columns, partitioned by day.

    duckdb_copy.py INPUT OUTDIR [--narrow]

All ten columns of the dataset, uncasted JSON kept as text, zstd, as many threads as there are cores. With --narrow the
event time is written once, as a timestamp, and not also as the text that was sent.
"""

import os
import sys

import duckdb

PAYLOAD = (
    "STRUCT(opportunityId VARCHAR, riskScore DOUBLE, categoryScores JSON, topDrivers JSON, dataQuality JSON, "
    "evaluationId VARCHAR)"
)


def statement(source, target, narrow):
    text = "" if narrow else '"timestamp" AS "timestamp",'
    kind = "TIMESTAMP" if narrow else "VARCHAR"
    moment = '"timestamp"' if narrow else 'CAST("timestamp" AS TIMESTAMP)'
    return f"""
        COPY (
            SELECT tenantId, data.opportunityId AS opportunityId, data.riskScore AS riskScore,
                   CAST(data.categoryScores AS VARCHAR) AS categoryScores,
                   CAST(data.topDrivers AS VARCHAR) AS topDrivers,
                   CAST(data.dataQuality AS VARCHAR) AS dataQuality,
                   {text}
                   data.evaluationId AS evaluationId, id AS eventId, moment AS eventTime,
                   strftime(moment, '%Y') AS year, strftime(moment, '%m') AS month, strftime(moment, '%d') AS day
            FROM (
                SELECT *, {moment} AS moment
                FROM read_json('{source}', format = 'newline_delimited', columns = {{
                    id: 'VARCHAR', "timestamp": '{kind}', tenantId: 'VARCHAR', data: '{PAYLOAD}'
                }})
            )
        ) TO '{target}' (FORMAT parquet, COMPRESSION zstd, PARTITION_BY (year, month, day))
    """


def main():
    source, target = sys.argv[1:3]
    connection = duckdb.connect()
    connection.execute(f"SET threads = {os.cpu_count()}")
    connection.execute("SET preserve_insertion_order = false")
    connection.execute("SET memory_limit = '8GB'")
    connection.execute(statement(source, target, "--narrow" in sys.argv))


if __name__ == "__main__":
    main()
