"""DuckDB, ready to read a lake."""

import duckdb
from duckdb_extensions import import_extension

import shape


def connect(root):
    con = duckdb.connect()
    con.sql("SET TimeZone = 'UTC'")
    if root.startswith("s3://"):
        import_extension("httpfs", con=con)
        con.load_extension("httpfs")
        s3 = shape.s3()
        con.execute(
            f"CREATE SECRET (TYPE s3, KEY_ID '{s3['key']}', SECRET '{s3['secret']}', REGION '{s3['region']}',"
            f" ENDPOINT '{s3['host']}', USE_SSL {str(s3['tls']).lower()}, URL_STYLE 'path')"
        )
    elif root.startswith("az://"):
        import_extension("azure", con=con)
        con.load_extension("azure")
        con.execute(f"CREATE SECRET (TYPE azure, CONNECTION_STRING '{shape.azure()[0]}')")
    return con
