"""Counts with DuckDB whether every event is in its dataset, and once.

    duckdb_once.py ROOT WANTED.csv

ROOT as in shape.py. WANTED.csv has the columns dataset, id, certain; what is not certain may be missing. The ids of
`ml_audit` are those in the names of its blobs, those of the others stand in `eventId`. Printed, as JSON: a list of
{dataset, wanted, found, lost, doubled, unasked, examples}.
"""

import sys

import duck
import shape

BLOBS = "ml_audit"

root, wanted = sys.argv[1].rstrip("/"), sys.argv[2]
con = duck.connect(root)
con.execute(
    "CREATE TABLE wanted AS FROM read_csv($1, header = true,"
    " columns = {'dataset': 'VARCHAR', 'id': 'VARCHAR', 'certain': 'BOOLEAN'})",
    [wanted],
)
con.execute("CREATE TABLE found (dataset VARCHAR, id VARCHAR, file VARCHAR)")
for (dataset,) in con.execute("SELECT DISTINCT dataset FROM wanted").fetchall():
    if dataset == BLOBS:
        # The first dash of a name parts routing key and id.
        ids = f"regexp_extract(file, '.*/[^/-]*-([^/]*)\\.json$', 1), file FROM glob('{root}/{dataset}/year=*/**/*.json')"
    else:
        ids = f'"eventId", filename FROM read_parquet(\'{root}/{dataset}/**/*.parquet\', filename = true)'
    con.execute(f"INSERT INTO found SELECT '{dataset}', {ids}")
con.execute(
    "CREATE TABLE counted AS SELECT dataset, id, certain, coalesce(n, 0) AS n FROM wanted"
    " FULL JOIN (SELECT dataset, id, count(*) AS n FROM found GROUP BY ALL) USING (dataset, id)"
)
con.execute(
    "CREATE TABLE wrong AS SELECT dataset, id || ' in ' || list(file ORDER BY file)::VARCHAR AS what FROM counted"
    " LEFT JOIN found USING (dataset, id) WHERE n > 1 OR certain IS NULL OR certain AND n = 0 GROUP BY dataset, id"
)
rows = con.execute(
    "SELECT dataset, count(*) FILTER (certain), sum(n)::BIGINT, count(*) FILTER (certain AND n = 0),"
    " coalesce(sum(n - 1) FILTER (certain IS NOT NULL AND n > 1), 0)::BIGINT,"
    " coalesce(sum(n) FILTER (certain IS NULL), 0)::BIGINT,"
    " (SELECT coalesce(list(what)[1:10], []) FROM wrong WHERE wrong.dataset = counted.dataset)"
    " FROM counted GROUP BY dataset ORDER BY dataset"
).fetchall()
names = ("dataset", "wanted", "found", "lost", "doubled", "unasked", "examples")
shape.show([dict(zip(names, row)) for row in rows])
