"""Reads datasets with DuckDB (hive_partitioning). Arguments and output: see shape.py."""

import duck
import shape

NUMERIC = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "FLOAT", "DOUBLE", "DECIMAL", "U")


def read(con, root, dataset):
    glob = f"{root}/{dataset}/**/*.parquet"
    paths = [row[0] for row in con.execute("SELECT file FROM glob($1)", [glob]).fetchall()]
    parts = shape.partition_names(paths, dataset)
    con.execute(f"CREATE OR REPLACE VIEW d AS FROM read_parquet('{glob}', hive_partitioning = true)")
    columns = {name: kind for name, kind, *_ in con.execute("DESCRIBE d").fetchall()}
    data = {name: kind for name, kind in columns.items() if name not in parts}
    sums = [name for name, kind in data.items() if kind.startswith(NUMERIC)]
    times = [name for name, kind in data.items() if kind.startswith("TIMESTAMP")]
    wanted = ["count(*)"]
    wanted += [f'coalesce(sum("{name}"), 0)' for name in sums]
    wanted += [f'epoch_us({end}("{name}"))' for name in times for end in ("min", "max")]
    rows, *values = con.execute(f"SELECT {', '.join(wanted)} FROM d").fetchone()
    ends = values[len(sums) :]
    group = ", ".join(f'"{name}"' for name in parts)
    counts = con.execute(f"SELECT {group}, count(*) FROM d GROUP BY ALL ORDER BY ALL").fetchall()
    return {
        "rows": rows,
        "columns": columns,
        "sums": {name: float(value) for name, value in zip(sums, values)},
        "times": {name: ends[2 * i : 2 * i + 2] for i, name in enumerate(times)},
        "partitions": {shape.partition(parts, row[:-1]): row[-1] for row in counts},
    }


root, datasets = shape.arguments()
con = duck.connect(root)
shape.show({dataset: read(con, root, dataset) for dataset in datasets})
