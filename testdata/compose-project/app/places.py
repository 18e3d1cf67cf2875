"""Where the database and Redis are, as the environment says."""
import os
import socket
from pathlib import Path

import psycopg2


def database():
    """A new connection to the database."""
    password = Path(os.environ["DATABASE_PASSWORD_FILE"]).read_text().removesuffix("\n")
    return psycopg2.connect(os.environ["DATABASE"], password=password, connect_timeout=5)


def redis(*words):
    """Redis' answer, without its first character, to one command whose answer is a line."""
    with socket.create_connection((os.environ["REDIS"], 6379), timeout=5) as connection, connection.makefile("rwb") as stream:
        stream.write(b"*%d\r\n" % len(words))
        for word in words:
            stream.write(b"$%d\r\n%s\r\n" % (len(word.encode()), word.encode()))
        stream.flush()
        line = stream.readline().decode().removesuffix("\r\n")
    if line[:1] not in ("+", ":"):
        raise ConnectionError(f"redis: {line or 'no answer'}")
    return line[1:]
