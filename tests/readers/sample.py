"""Writes a small Hive-partitioned dataset with pyarrow, for trying the readers themselves: sample.py ROOT DATASET"""

import datetime
import decimal
import sys

import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq

ROWS_A_DAY = 10

root, dataset = sys.argv[1:3]
schema = pa.schema(
    [
        pa.field("eventId", pa.string(), nullable=False),
        pa.field("riskScore", pa.float64(), nullable=False),
        pa.field("amount", pa.decimal128(18, 4)),
        pa.field("eventTime", pa.timestamp("us", tz="UTC"), nullable=False),
    ]
)
for day in (1, 2, 31):
    start = datetime.datetime(2026, 1, day, tzinfo=datetime.timezone.utc)
    rows = [
        {
            "eventId": f"e-{day}-{i}",
            "riskScore": day + i / 4,
            "amount": decimal.Decimal(i).quantize(decimal.Decimal("0.0001")) if i % 2 else None,
            "eventTime": start + datetime.timedelta(hours=i, microseconds=i),
        }
        for i in range(ROWS_A_DAY)
    ]
    folder = f"{root}/{dataset}/year=2026/month=01/day={day:02}"
    pa.fs.LocalFileSystem().create_dir(folder, recursive=True)
    pq.write_table(pa.Table.from_pylist(rows, schema), f"{folder}/sample-000000.parquet", compression="zstd")
