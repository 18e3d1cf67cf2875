#!/usr/bin/env python3
"""check.py ROOT: runs ROOT/wharf as root of the file system ROOT, in which there is nothing else but /proc.

Called by check.sh in a network namespace of its own, whose name server and web server are this program.
"""
import http.server
import os
import socket
import ssl
import struct
import subprocess
import sys
import threading

ROOT = sys.argv[1]
HOST = "files.test"


def answer_names(server):
    """Says that every name is this machine."""
    while True:
        question, client = server.recvfrom(512)
        end = 12
        while question[end]:
            end += question[end] + 1
        is_ipv4 = struct.unpack(">H", question[end + 1:end + 3])[0] == 1
        answer = b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4\x7f\0\0\1" if is_ipv4 else b""
        head = question[:2] + b"\x81\x80\0\1" + struct.pack(">H", is_ipv4) + b"\0\0\0\0"
        server.sendto(head + question[12:end + 5] + answer, client)


class Pages(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("content-length", "3")
        self.end_headers()
        self.wfile.write(b"hi\n")

    def log_message(self, *_):
        pass


def serve(port, context=None):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Pages)
    if context:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()


def start_servers():
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    names = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    names.bind(("127.0.0.1", 53))
    threading.Thread(target=answer_names, args=(names,), daemon=True).start()
    serve(80)
    key, certificate = ROOT + "/key.pem", ROOT + "/certificate.pem"
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", key,
                    "-out", certificate, "-days", "2", "-subj", "/CN=" + HOST, "-addext", "subjectAltName=DNS:" + HOST,
                    "-addext", "basicConstraints=critical,CA:FALSE"],
                   check=True, stderr=subprocess.DEVNULL)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    serve(443, context)
    os.mkdir(ROOT + "/etc")
    with open(ROOT + "/etc/resolv.conf", "w") as file:
        file.write("nameserver 127.0.0.1\n")


def build(url, environment):
    """What a build that adds `url` says."""
    os.makedirs(ROOT + "/context", exist_ok=True)
    with open(ROOT + "/context/Dockerfile", "w") as file:
        file.write(f"FROM scratch\nADD {url} /file\n")

    def enter():
        os.chroot(ROOT)
        os.chdir("/")

    argv = ["/wharf", "--root", "/store", "build", "--progress", "plain", "-o", "/out", "/context"]
    return subprocess.run(argv, env=environment, preexec_fn=enter, capture_output=True, text=True)


def check(what, done, *words):
    if words and (done.returncode == 0 or not all(word in done.stderr for word in words)) or not words and done.returncode:
        raise SystemExit(f"check.py: {what}: status {done.returncode}\n{done.stderr}")


os.mkdir(ROOT + "/proc")
subprocess.run(["mount", "-t", "proc", "proc", ROOT + "/proc"], check=True)
start_servers()
check("a host is found by its name", build(f"http://{HOST}/1", {}))
# The certificates that are built in do not know the server: without any it would be another word.
check("a stranger is not trusted", build(f"https://{HOST}/2", {}), "UnknownIssuer")
check("certificates are found where the environment says", build(f"https://{HOST}/3", {"SSL_CERT_FILE": "/certificate.pem"}))
with open(ROOT + "/out/file") as file:
    assert file.read() == "hi\n"
print("check.py: an empty file system is enough")
