"""What the readers have in common: their arguments and the shape of what they print.

    reader.py ROOT DATASET...

ROOT is a folder, `s3://bucket[/prefix]` or `az://container[/prefix]`. S3 is found by AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID,
AWS_SECRET_ACCESS_KEY and AWS_REGION, Azure by AZURE_STORAGE_CONNECTION_STRING. Printed, as JSON, by dataset:

    rows          the count
    columns       name -> type, in the reader's own words, in file order, partition columns last
    sums          column -> sum, of every numeric column of the files
    times         column -> [earliest, latest] in microseconds since the epoch, of every timestamp column
    partitions    "year=2026/month=05/day=03" -> rows
"""

import json
import os
import sys

PARTITION_WIDTHS = {"year": 4, "month": 2, "day": 2}


def arguments():
    if len(sys.argv) < 3:
        sys.exit(f"usage: {sys.argv[0]} ROOT DATASET...")
    return sys.argv[1].rstrip("/"), sys.argv[2:]


def partition(names, values):
    """The folder of a partition, from its values as whatever type a reader inferred."""

    def one(name, value):
        if value is None:
            return f"{name}=__HIVE_DEFAULT_PARTITION__"
        return f"{name}={str(value).zfill(PARTITION_WIDTHS.get(name, 0))}"

    return "/".join(one(n, v) for n, v in zip(names, values))


def partition_names(paths, dataset):
    """The partition columns, from the path of any file of the dataset."""
    tail = paths[0].split(f"/{dataset}/", 1)[1]
    return [part.split("=", 1)[0] for part in tail.split("/")[:-1]]


def s3():
    """Endpoint (without scheme), whether it is HTTPS, key, secret and region."""
    endpoint = os.environ["AWS_ENDPOINT_URL"]
    scheme, _, host = endpoint.partition("://")
    return {
        "host": host,
        "url": endpoint,
        "tls": scheme == "https",
        "key": os.environ["AWS_ACCESS_KEY_ID"],
        "secret": os.environ["AWS_SECRET_ACCESS_KEY"],
        "region": os.environ.get("AWS_REGION", "us-east-1"),
    }


def azure():
    """The connection string, and its parts by name."""
    text = os.environ["AZURE_STORAGE_CONNECTION_STRING"]
    return text, dict(part.split("=", 1) for part in text.split(";") if part)


def show(report):
    json.dump(report, sys.stdout, indent=1)
    print()
