#!/usr/bin/python3
"""Answers `GET /` with a document: who answers, how often it was asked for, and the goods; `GET /health` when both databases answer."""
import json
import signal
import socket
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from places import database, redis


def page():
    connection = database()
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT name, price FROM goods ORDER BY name")
            goods = dict(cursor.fetchall())
    finally:
        connection.close()
    return {"host": socket.gethostname(), "visits": int(redis("INCR", "visits")), "goods": goods}


def health():
    database().close()
    return redis("PING")


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        answer = {"/": page, "/health": health}.get(self.path)
        if answer is None:
            self.send_error(404)
            return
        try:
            body = (json.dumps(answer()) + "\n").encode()
        # Whatever is the matter with a database, this server goes on.
        except Exception as error:
            self.send_error(503, explain=str(error))
            return
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, form, *values):
        if self.path != "/health":
            super().log_message(form, *values)


# The first process of a container has no signal's default action.
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
ThreadingHTTPServer(("", 8000), Handler).serve_forever()
