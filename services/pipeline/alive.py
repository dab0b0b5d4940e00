"""`python3 -m services.pipeline.alive SECONDS`: whether Dagster's daemon beat within so many.

For a probe, so little is imported: Dagster's own check costs seconds of a core each time.
"""

from __future__ import annotations

import sys

import psycopg

from services.pipeline.settings import load, secret


def main() -> int:
    """0 when the sensors' daemon beat; 0 too when PostgreSQL does not answer: no restart helps."""
    settings = load()
    database = settings.dagster
    try:
        with psycopg.connect(
            host=database.host,
            port=database.port,
            dbname=database.database,
            user=database.user,
            password=secret(database.password),
            sslmode="verify-full",
            sslrootcert=str(settings.trust),
            connect_timeout=5,
        ) as session:
            row = session.execute(
                "SELECT extract(epoch FROM now() AT TIME ZONE 'UTC' - max(timestamp)) "
                "FROM daemon_heartbeats WHERE daemon_type = 'SENSOR'"
            ).fetchone()
    except psycopg.OperationalError as error:
        print(error)
        return 0
    except psycopg.errors.UndefinedTable:
        return 0
    age = float(row[0]) if row and row[0] is not None else 0.0
    print(f"{age:.0f} s since the last beat")
    return 0 if age <= float(sys.argv[1]) else 1


if __name__ == "__main__":
    sys.exit(main())
