"""Serves the repositories below a directory over HTTP, for the tests of the git source.

/smart/…    git's own protocol, version 2
/old/…      version 0: gives nothing that has no name
/dumb/…     plain files
/private/…  like /smart, for who knows the token
/moved/…    redirects to another host name of this machine
/hang/…     never answers

Every request is a line of the log. Prints the port.
"""
import http.server
import os
import subprocess
import sys
import time

ROOT, LOG, AUTHORIZATION = sys.argv[1:4]


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def answer(self, status, headers, body):
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def serve(self):
        path, _, query = self.path.partition("?")
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        kind, _, rest = path[1:].partition("/")
        authorization = self.headers.get("Authorization")
        with open(LOG, "a") as log:
            print(self.command, self.path, authorization or "-", file=log)
        if kind == "hang":
            time.sleep(1000)
        if kind == "moved":
            port = self.server.server_address[1]
            return self.answer(302, [("Location", f"http://localhost:{port}/smart/{rest}?{query}")], b"")
        if kind == "private" and authorization != AUTHORIZATION:
            return self.answer(401, [("WWW-Authenticate", "Basic realm=x")], b"")
        if kind == "dumb":
            try:
                with open(os.path.join(ROOT, rest), "rb") as file:
                    return self.answer(200, [], file.read())
            except OSError:
                return self.answer(404, [], b"")
        env = {
            **os.environ,
            "GIT_PROJECT_ROOT": ROOT,
            "GIT_HTTP_EXPORT_ALL": "1",
            "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": "safe.directory",
            "GIT_CONFIG_VALUE_0": "*",
            "PATH_INFO": "/" + rest,
            "QUERY_STRING": query,
            "REQUEST_METHOD": self.command,
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "CONTENT_LENGTH": str(length),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
        }
        if kind != "old":
            env["GIT_PROTOCOL"] = self.headers.get("Git-Protocol", "")
        done = subprocess.run(["git", "http-backend"], env=env, input=body, stdout=subprocess.PIPE)
        head, _, content = done.stdout.partition(b"\r\n\r\n")
        headers = [line.split(": ", 1) for line in head.decode().split("\r\n") if line]
        status = [int(value.split()[0]) for name, value in headers if name == "Status"]
        self.answer((status or [200])[0], [it for it in headers if it[0] != "Status"], content)

    do_GET = do_POST = serve


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
server.daemon_threads = True
print(server.server_address[1], flush=True)
server.serve_forever()
