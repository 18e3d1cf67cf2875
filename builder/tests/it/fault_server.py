#!/usr/bin/env python3
"""A registry that fails as it is told.

Serves the OCI distribution protocol from memory on a loopback port, a second port that stands for another host, and a
third that accepts no connection. The three ports are printed on one line. `PUT /_faults` sets a list of faults
({"on": REGEX of "METHOD PATH", "times": N or -1, "do": ACTION, ...}), `GET /_state` tells what is there and what was asked.
"""
import gzip
import hashlib
import http.server
import itertools
import json
import re
import socket
import struct
import sys
import threading
import time
import urllib.parse

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"

lock = threading.Lock()
blobs, manifests, tags, uploads, requests = {}, {}, {}, {}, []
upload_numbers = itertools.count()
settings = {"faults": [], "auth": None}


def digest_of(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 30
    fault = None

    def log_message(self, *arguments):
        pass

    def handle_any(self):
        self.close_connection = True
        path = self.path
        if path.startswith("/_"):
            return self.control(path)
        is_other = self.server.is_other
        with lock:
            requests.append({
                "line": f"{self.command} {path}",
                "authorization": self.headers.get("Authorization"),
                "other": is_other,
                "range": self.headers.get("Content-Range") or self.headers.get("Range"),
                "scope": urllib.parse.parse_qs(urllib.parse.urlsplit(path).query).get("scope"),
            })
            fault = next((it for it in settings["faults"] if it["times"] != 0 and bool(it.get("other")) == is_other
                          and re.search(it["on"], f"{self.command} {path}")), None)
            if fault:
                fault["times"] -= 1
        self.fault = fault
        if fault and self.fail(fault):
            return None
        if path.startswith("/token"):
            return self.token()
        if not self.authorized() and not is_other:
            challenge = settings["auth"]["challenge"].replace("PORT", str(ports[0])).replace("OTHER", str(ports[1]))
            self.body()
            return self.answer(401, b"", {"WWW-Authenticate": challenge})
        return self.serve()

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = handle_any

    def authorized(self):
        auth = settings["auth"]
        if not auth:
            return True
        with lock:
            if "ends_before" in auth and re.search(auth["ends_before"], f"{self.command} {self.path}"):
                # From here on it is a token of the past.
                del auth["ends_before"]
                auth["accept"] += "x"
        if self.headers.get("Authorization") != auth["accept"]:
            return False
        return True

    def token(self):
        auth, given = settings["auth"], self.body().decode()
        refresh = urllib.parse.parse_qs(given).get("refresh_token", [None])[0]
        right = self.headers.get("Authorization") == auth.get("token_for") or refresh == auth.get("refresh", "")
        if auth.get("token_for") and not right:
            return self.answer(401, b'{"details":"incorrect username or password"}')
        return self.answer(200, json.dumps({"token": auth["accept"].removeprefix("Bearer ")}).encode())

    def body(self):
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def answer(self, status, body=b"", headers=None, length=None, cut=None, stall=None):
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if self.fault and self.fault["do"] == "drip":
            length = 1_000_000
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.send_header("Connection", "close")
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.fault and self.fault["do"] == "drip":
            return self.drip(body)
        self.wfile.write(body[:cut] if cut is not None else body)
        self.wfile.flush()
        if stall:
            time.sleep(stall)
        if cut is not None:
            self.reset()

    def drip(self, body):
        """Sends a byte now and then, and blanks when there are no more."""
        for at in itertools.count():
            try:
                self.wfile.write(body[at:at + 1] or b" ")
                self.wfile.flush()
            except OSError:
                return
            time.sleep(self.fault["seconds"])

    def reset(self):
        """Ends the connection in the middle of things."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.rfile = self.wfile = open("/dev/null", "r+b")

    def fail(self, fault):
        """Does what the fault says; whether that was all."""
        action = fault["do"]
        if action == "status":
            self.body()
            self.answer(fault["status"], fault.get("body", "").encode(), fault.get("headers"))
        elif action == "reset":
            self.rfile.read(min(fault.get("after", 0), int(self.headers.get("Content-Length") or 0)))
            self.reset()
        elif action == "keep":
            # Takes a part of what is uploaded, and hangs up.
            part = self.rfile.read(fault["after"])
            with lock:
                uploads[self.path.split("?")[0]] += part
            self.reset()
        elif action == "silence":
            time.sleep(fault["seconds"])
            self.reset()
        elif action == "redirect":
            self.body()
            self.answer(307, b"", {"Location": fault["to"].replace("OTHER", str(ports[1])).replace("PATH", self.path)})
        else:
            # What changes an answer.
            return False
        return True

    def send_blob(self, data, headers):
        fault, status = self.fault or {"do": ""}, 200
        span = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        if span:
            start, status = int(span[1]), 206
            headers = headers | {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"}
            data = data[start:]
        action = fault["do"]
        if action == "headers":
            return self.answer(status, data, headers | fault["headers"])
        if action == "cut":
            return self.answer(status, data, headers, cut=fault["at"] % max(len(data), 1))
        if action == "stall":
            return self.answer(status, data, headers, cut=len(data) // 2, stall=fault["seconds"])
        if action == "flip":
            return self.answer(status, data[:-1] + bytes([data[-1] ^ 1]), headers)
        if action == "shorten":
            return self.answer(status, data[:-1], headers)
        if action == "lengthen":
            return self.answer(status, data + b" ", headers)
        if action == "length":
            return self.answer(status, data, headers, length=len(data) + fault["by"])
        return self.answer(status, data, headers)

    def serve(self):
        url = urllib.parse.urlsplit(self.path)
        query, path = urllib.parse.parse_qs(url.query), url.path
        if path == "/v2/":
            return self.answer(200, b"{}")
        if found := re.fullmatch(r"/v2/(.+)/manifests/(.+)", path):
            return self.manifest(*found.groups())
        if found := re.fullmatch(r"/v2/(.+)/blobs/uploads/", path):
            self.body()
            source = query.get("from", [None])[0]
            if source and (source, query["mount"][0]) in blobs:
                with lock:
                    blobs[found[1], query["mount"][0]] = blobs[source, query["mount"][0]]
                return self.answer(201)
            with lock:
                place = f"/v2/{found[1]}/blobs/uploads/{next(upload_numbers)}"
                uploads[place] = b""
            where = place
            if self.fault and self.fault["do"] == "location":
                where = self.fault["to"].replace("OTHER", str(ports[1])).replace("PATH", place)
            return self.answer(202, b"", {"Location": where + "?state=x", "Range": "0-0"})
        if found := re.fullmatch(r"/v2/(.+)/blobs/(sha256:.+)", path):
            data = blobs.get(found.groups())
            return self.answer(404) if data is None else self.send_blob(data, {})
        if path in uploads:
            return self.upload(path, query)
        if found := re.fullmatch(r"/v2/(.+)/tags/list", path):
            return self.list_tags(found[1], query)
        if found := re.fullmatch(r"/v2/(.+)/referrers/(sha256:.+)", path):
            listed = [
                {"mediaType": MANIFEST, "digest": digest, "size": len(data), "artifactType": json.loads(data).get("artifactType", "")}
                for (name, digest), (data, _) in manifests.items()
                if name == found[1] and digest == digest_of(data) and json.loads(data).get("subject", {}).get("digest") == found[2]
            ]
            return self.answer(200, json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": listed}).encode(), {"Content-Type": INDEX})
        self.body()
        return self.answer(404)

    def list_tags(self, name, query):
        all_tags = sorted(tag for repository, tag in tags if repository == name)
        if not all_tags:
            return self.answer(404)
        last, count = query.get("last", [""])[0], 2
        rest = [tag for tag in all_tags if tag > last]
        headers = {}
        if len(rest) > count:
            headers["Link"] = f'</v2/{name}/tags/list?n={count}&last={rest[count - 1]}>; rel="next"'
        if self.fault and self.fault["do"] == "link":
            headers["Link"] = f'<{self.fault["to"].replace("OTHER", str(ports[1]))}>; rel="next"'
        if self.fault and self.fault["do"] == "endless":
            rest = ["t" * 9] * self.fault["tags"]
            count = len(rest)
            headers["Link"] = f'</v2/{name}/tags/list?last={next(upload_numbers)}>; rel="next"'
        return self.answer(200, json.dumps({"name": name, "tags": rest[:count]}).encode(), headers)

    def upload(self, path, query):
        data = self.body()
        if self.command == "GET":
            return self.answer(204, b"", {"Location": path + "?state=y", "Range": f"0-{max(len(uploads[path]) - 1, 0)}"})
        if self.command == "PATCH":
            start, end = (int(it) for it in self.headers["Content-Range"].split("-"))
            if start != len(uploads[path]) or end - start + 1 != len(data):
                return self.answer(416, b"", {"Range": f"0-{len(uploads[path]) - 1}"})
            with lock:
                uploads[path] += data
            return self.answer(202, b"", {"Location": path + "?state=z", "Range": f"0-{len(uploads[path]) - 1}"})
        with lock:
            whole = uploads.pop(path) + data
            digest = query["digest"][0]
            if digest_of(whole) != digest:
                return self.answer(400, b'{"errors":[{"code":"DIGEST_INVALID","message":"provided digest did not match"}]}')
            blobs[path.removeprefix("/v2/").split("/blobs/")[0], digest] = whole
        return self.answer(201, b"", {"Docker-Content-Digest": digest})

    def manifest(self, name, selector):
        if self.command == "PUT":
            data = self.body()
            document = json.loads(data)
            with lock:
                for it in document.get("layers", []) + ([document["config"]] if "config" in document else []):
                    if (name, it["digest"]) not in blobs:
                        return self.answer(400, b'{"errors":[{"code":"MANIFEST_BLOB_UNKNOWN","message":"blob unknown"}]}')
                digest = digest_of(data)
                manifests[name, digest] = data, self.headers["Content-Type"]
                if not selector.startswith("sha256:"):
                    tags[name, selector] = digest
            headers = {"Docker-Content-Digest": digest}
            if "subject" in document and not (self.fault and self.fault["do"] == "no-subject"):
                headers["OCI-Subject"] = document["subject"]["digest"]
            return self.answer(201, b"", headers)
        if self.command == "DELETE":
            with lock:
                gone = manifests.pop((name, selector), None) or tags.pop((name, selector), None)
            return self.answer(202 if gone else 404)
        found = manifests.get((name, tags.get((name, selector), selector)))
        if found is None:
            return self.answer(404, b'{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}')
        return self.send_blob(found[0], {"Content-Type": found[1]})

    def control(self, path):
        if path == "/_faults":
            given = json.loads(self.body())
            with lock:
                settings.update({"faults": given.get("faults", []), "auth": given.get("auth")})
                requests.clear()
            return self.answer(200)
        if path == "/_state":
            with lock:
                state = {"tags": sorted(":".join(tag) for tag in tags), "requests": requests,
                         "digests": {":".join(tag): digest for tag, digest in tags.items()},
                         "blobs": sorted("@".join(blob) for blob in blobs)}
            return self.answer(200, json.dumps(state).encode())
        return self.answer(404)


def descriptor(data, media_type, **more):
    return {"mediaType": media_type, "digest": digest_of(data), "size": len(data)} | more


def put(tag, data, media_type):
    data = data if isinstance(data, bytes) else json.dumps(data).encode()
    manifests["bad", digest_of(data)] = data, media_type
    if tag:
        tags["bad", tag] = digest_of(data)
    return data


def put_blob(data):
    blobs["bad", digest_of(data)] = data
    return data


def image(tag, layers, config=None, count=None, config_type=CONFIG):
    """An image with these layers: bytes, media type, diffID."""
    ids = [diff_id for _, _, diff_id in layers]
    config = config or json.dumps({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": ids}}).encode()
    listed = [descriptor(put_blob(data), media_type) for data, media_type, _ in layers]
    return put(tag, {"schemaVersion": 2, "mediaType": MANIFEST, "config": descriptor(put_blob(config), config_type), "layers": listed}, MANIFEST)


def make_hostile():
    empty = bytes(1024)
    platform = {"platform": {"os": "linux", "architecture": "amd64"}}
    # As many layers as a manifest of the largest size holds, each the same empty one.
    image("layers", [(empty, LAYER, digest_of(empty))] * 10_000)
    image("more-ids", [(empty, LAYER, digest_of(empty))], config=json.dumps(
        {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [digest_of(empty)] * 10_000}}).encode())
    # An index within an index within …
    inner = image(None, [(empty, LAYER, digest_of(empty))])
    kind = MANIFEST
    for depth in range(10):
        inner = put("deep" if depth == 9 else None, {"schemaVersion": 2, "mediaType": INDEX, "manifests": [descriptor(inner, kind, **platform)]}, INDEX)
        kind = INDEX
    # One that says it contains itself, which no honest digest can.
    lie = digest_of(b"itself")
    itself = put("itself", {"schemaVersion": 2, "mediaType": INDEX, "manifests": [{"mediaType": INDEX, "digest": lie, "size": 400} | platform]}, INDEX)
    manifests["bad", lie] = itself, INDEX
    put("giant", b'{"schemaVersion":2,"x":"' + b"x" * (5 << 20) + b'"}', MANIFEST)
    put("nested", b"[" * 1_000_000, MANIFEST)
    # A config that says it is small, one that says it is large, one that is a tower of lists.
    for tag, size in [("config-short", 3), ("config-large", 1 << 40)]:
        config = put_blob(b"{" + b" " * (1 << 20) + b"}")
        put(tag, {"schemaVersion": 2, "mediaType": MANIFEST, "config": descriptor(config, CONFIG) | {"size": size}, "layers": []}, MANIFEST)
    image("config-nested", [], config=b'{"rootfs":' + b"[" * 500_000)
    put("layer-large", {"schemaVersion": 2, "mediaType": MANIFEST, "config": descriptor(put_blob(json.dumps(
        {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [digest_of(empty)]}}).encode()), CONFIG),
        "layers": [descriptor(put_blob(empty), LAYER) | {"size": 1 << 62}]}, MANIFEST)
    image("gzip-bomb", [(gzip.compress(bytes(256 << 20), 1), LAYER + "+gzip", digest_of(b"other"))])
    # A frame with a window of 2 GiB: header descriptor 0, window descriptor exponent 21.
    zstd = b"\x28\xb5\x2f\xfd" + bytes([0, 21 << 3]) + b"\x03\x20\x00" + b"\0"
    image("zstd-bomb", [(zstd, LAYER + "+zstd", digest_of(empty))])
    # Compressed 1000 times: what it unpacks to is counted, and what it takes meanwhile is measured.
    zeros = bytes(256 << 20)
    image("gzip-zeros", [(gzip.compress(zeros, 9), LAYER + "+gzip", digest_of(zeros))])
    good = {"schemaVersion": 2, "mediaType": MANIFEST, "config": descriptor(put_blob(b"{}"), CONFIG), "layers": []}
    for tag, size in [("size-negative", -2), ("size-float", 2.0), ("size-large", 1 << 64), ("size-text", "2")]:
        put(tag, good | {"config": good["config"] | {"size": size}}, MANIFEST)
    put("twice", json.dumps(good)[:-1].encode() + b', "layers": []}', MANIFEST)
    put("no-config", {"schemaVersion": 2, "mediaType": MANIFEST, "layers": []}, MANIFEST)
    put("no-layers", {"schemaVersion": 2, "mediaType": MANIFEST, "config": good["config"]}, MANIFEST)
    put("both", good | {"manifests": []}, MANIFEST)
    put("no-digest", good | {"config": {"mediaType": CONFIG, "size": 2}}, MANIFEST)
    put("other-digest", good | {"config": good["config"] | {"digest": "md5:x"}}, MANIFEST)
    image("config-text", [], config=b"this is a text")
    image("config-list", [], config=b"[]")
    image("diff-id", [(empty, LAYER, digest_of(b"other"))])
    # One that is served as what it is not.
    put("as-index", good | {"mediaType": INDEX}, INDEX)
    put("no-manifests", {"schemaVersion": 2, "mediaType": INDEX, "manifests": []}, INDEX)
    put("schema-1", {"schemaVersion": 1, "name": "x", "fsLayers": []}, "application/vnd.docker.distribution.manifest.v1+json")
    image("layer-type", [(empty, "application/x-unknown", digest_of(empty))])
    image("config-type", [(empty, LAYER, digest_of(empty))], config_type="application/vnd.cncf.helm.config.v1+json")
    put("list", [good], MANIFEST)
    put("config-word", good | {"config": "x"}, MANIFEST)
    put("artifact", {"schemaVersion": 2, "mediaType": "application/vnd.something+json", "blobs": []}, "application/vnd.something+json")


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request, client_address):
        pass


make_hostile()
servers = [Server(("127.0.0.1", 0), Handler) for _ in range(2)]
servers[0].is_other, servers[1].is_other = False, True
# Nobody accepts here, and what has connected fills the queue.
closed = socket.socket()
closed.bind(("127.0.0.1", 0))
closed.listen(0)
waiting = []
for _ in range(4):
    waiting.append(socket.socket())
    waiting[-1].setblocking(False)
    waiting[-1].connect_ex(closed.getsockname())
ports = [server.server_address[1] for server in servers] + [closed.getsockname()[1]]
print(*ports, flush=True)
for server in servers:
    threading.Thread(target=server.serve_forever, daemon=True).start()
# Ends with whoever started it.
sys.stdin.read()
