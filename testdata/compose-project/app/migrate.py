#!/usr/bin/python3
"""Brings the database to where the files of migrations/ are, each once and in their order, and ends."""
from pathlib import Path

from places import database

connection = database()
with connection, connection.cursor() as cursor:
    cursor.execute("CREATE TABLE IF NOT EXISTS migrations (name text PRIMARY KEY)")
    cursor.execute("LOCK TABLE migrations")
    cursor.execute("SELECT name FROM migrations")
    done = {name for (name,) in cursor}
    for path in sorted(Path(__file__).with_name("migrations").glob("*.sql")):
        if path.name not in done:
            cursor.execute(path.read_text())
            cursor.execute("INSERT INTO migrations VALUES (%s)", [path.name])
            print(f"migrated: {path.name}")
print("the database is up to date")
