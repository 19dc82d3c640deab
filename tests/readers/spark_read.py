"""Reads datasets with Spark 4 (partition discovery), local folders and S3. Arguments and output: see shape.py."""

import os
import pathlib

from pyspark.sql import SparkSession
from pyspark.sql import functions as f
from pyspark.sql.types import NumericType, TimestampType

import shape


def session(root):
    build = (
        SparkSession.builder.master("local[2]")
        .config("spark.ui.enabled", "false")
        .config("spark.driver.bindAddress", "127.0.0.1")
        .config("spark.driver.host", "127.0.0.1")
        .config("spark.driver.memory", "1g")
        .config("spark.sql.shuffle.partitions", "2")
        .config("spark.sql.session.timeZone", "UTC")
    )
    if root.startswith("s3a://"):
        s3 = shape.s3()
        cache = pathlib.Path(os.environ.get("LAKEHEAD_CACHE", pathlib.Path.home() / ".cache/lakehead"))
        jars = ",".join(str(jar) for jar in sorted((cache / "jars").glob("*.jar")))
        build = (
            build.config("spark.jars", jars)
            .config("spark.driver.extraClassPath", jars.replace(",", ":"))
            .config("spark.hadoop.fs.s3a.endpoint", s3["url"])
            .config("spark.hadoop.fs.s3a.endpoint.region", s3["region"])
            .config("spark.hadoop.fs.s3a.access.key", s3["key"])
            .config("spark.hadoop.fs.s3a.secret.key", s3["secret"])
            .config("spark.hadoop.fs.s3a.path.style.access", "true")
            .config("spark.hadoop.fs.s3a.connection.ssl.enabled", str(s3["tls"]).lower())
        )
    spark = build.getOrCreate()
    spark.sparkContext.setLogLevel("ERROR")
    return spark


def read(spark, root, dataset):
    data = spark.read.parquet(f"{root}/{dataset}")
    parts = shape.partition_names(data.inputFiles(), dataset)
    fields = [field for field in data.schema if field.name not in parts]
    numeric = [field.name for field in fields if isinstance(field.dataType, NumericType)]
    times = [field.name for field in fields if isinstance(field.dataType, TimestampType)]
    wanted = [f.count(f.lit(1))]
    wanted += [f.coalesce(f.sum(f"`{name}`"), f.lit(0)) for name in numeric]
    wanted += [f.unix_micros(end(f"`{name}`")) for name in times for end in (f.min, f.max)]
    rows, *values = data.agg(*wanted).first()
    ends = values[len(numeric) :]
    counts = data.groupBy(*parts).count().orderBy(*parts).collect()
    return {
        "rows": rows,
        "columns": {field.name: field.dataType.simpleString() for field in data.schema},
        "sums": {name: float(value) for name, value in zip(numeric, values)},
        "times": {name: ends[2 * i : 2 * i + 2] for i, name in enumerate(times)},
        "partitions": {shape.partition(parts, row[:-1]): row[-1] for row in counts},
    }


root, datasets = shape.arguments()
root = root.replace("s3://", "s3a://", 1)
spark = session(root)
report = {dataset: read(spark, root, dataset) for dataset in datasets}
spark.stop()
shape.show(report)
