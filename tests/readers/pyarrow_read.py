"""Reads datasets with pyarrow.dataset and sums them with pandas. Arguments and output: see shape.py."""

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.fs as fs

import shape


def filesystem(root):
    if root.startswith("s3://"):
        s3 = shape.s3()
        store = fs.S3FileSystem(
            access_key=s3["key"],
            secret_key=s3["secret"],
            region=s3["region"],
            endpoint_override=s3["host"],
            scheme="https" if s3["tls"] else "http",
        )
        return store, root.removeprefix("s3://")
    if root.startswith("az://"):
        parts = shape.azure()[1]
        scheme, _, rest = parts["BlobEndpoint"].partition("://")
        host = rest.split("/")[0]
        store = fs.AzureFileSystem(
            account_name=parts["AccountName"],
            account_key=parts["AccountKey"],
            blob_storage_authority=host,
            blob_storage_scheme=scheme,
            dfs_storage_authority=host,
            dfs_storage_scheme=scheme,
        )
        return store, root.removeprefix("az://")
    return fs.LocalFileSystem(), root


def read(store, root, dataset):
    data = ds.dataset(f"{root}/{dataset}", filesystem=store, format="parquet", partitioning="hive")
    parts = shape.partition_names(data.files, dataset)
    table = data.to_table()
    fields = [field for field in table.schema if field.name not in parts]
    numeric = [
        field.name
        for field in fields
        if pa.types.is_integer(field.type) or pa.types.is_floating(field.type) or pa.types.is_decimal(field.type)
    ]
    times = [field.name for field in fields if pa.types.is_timestamp(field.type)]
    frame = table.to_pandas()
    ends = {name: pc.min_max(table[name].cast(pa.timestamp("us", table.schema.field(name).type.tz))) for name in times}
    counts = frame.groupby(parts, dropna=False, observed=True).size()
    return {
        "rows": len(frame),
        "columns": {field.name: str(field.type) for field in table.schema},
        "sums": {name: float(frame[name].sum()) for name in numeric},
        "times": {name: [end["min"].value, end["max"].value] for name, end in ends.items()},
        "partitions": {shape.partition(parts, key): int(rows) for key, rows in counts.items()},
    }


root, datasets = shape.arguments()
store, path = filesystem(root)
shape.show({dataset: read(store, path, dataset) for dataset in datasets})
