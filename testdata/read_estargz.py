#!/usr/bin/env python3
"""Reads an estargz layer by its table of contents alone, compares that with what a tar reader sees, and prints as JSON what it
found: digest of the table, size of the tar, and the entries in order. Fails where anything does not fit.

    read_estargz.py BLOB
"""

import base64
import hashlib
import io
import json
import sys
import tarfile
import zlib
from datetime import datetime, timezone

FOOTER_BYTES = 51
KINDS = {
    tarfile.REGTYPE: "reg", tarfile.LNKTYPE: "hardlink", tarfile.SYMTYPE: "symlink", tarfile.CHRTYPE: "char",
    tarfile.BLKTYPE: "block", tarfile.DIRTYPE: "dir", tarfile.FIFOTYPE: "fifo",
}


def member(blob, offset):
    """The bytes of the one gzip member that begins there."""
    stream = zlib.decompressobj(wbits=31)
    data = stream.decompress(blob[offset:])
    assert stream.eof, "a member does not end"
    return data


def digest(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


def main(path):
    with open(path, "rb") as file:
        blob = file.read()

    footer = blob[-FOOTER_BYTES:]
    assert footer[:4] == b"\x1f\x8b\x08\x04", "the footer is no gzip member with an extra field"
    assert int.from_bytes(footer[10:12], "little") == 26, "the extra field has another length"
    assert footer[12:16] == b"SG\x16\x00", "the field of the footer is another one"
    assert footer[32:38] == b"STARGZ", "the footer has no magic"
    table_offset = int(footer[16:32], 16)
    assert member(blob, len(blob) - FOOTER_BYTES) == b"", "there is something in the footer"

    table = tarfile.open(fileobj=io.BytesIO(member(blob, table_offset)))
    entry = table.next()
    assert entry.name == "stargz.index.json", entry.name
    text = table.extractfile(entry).read()
    assert table.next() is None, "something follows the table"
    contents = json.loads(text)
    assert contents["version"] == 1

    # Everybody else sees one gzip file.
    whole, rest = b"", blob
    while rest:
        stream = zlib.decompressobj(wbits=31)
        whole += stream.decompress(rest)
        rest = stream.unused_data
    seen = list(tarfile.open(fileobj=io.BytesIO(whole)))
    assert seen[-1].name == "stargz.index.json", "the table is not the last entry"
    assert seen[0].name == ".no.prefetch.landmark" and seen[0].size == 1, "the landmark is not the first entry"

    archive = tarfile.open(fileobj=io.BytesIO(whole))
    files = [entry for entry in contents["entries"] if entry["type"] != "chunk"]
    assert len(files) == len(seen) - 1, "the table has other entries than the tar"
    chunks = {}
    for entry in contents["entries"]:
        if entry["type"] == "reg":
            name = entry["name"]
            chunks[name] = []
        if entry["type"] in ("reg", "chunk") and "chunkDigest" in entry:
            assert entry["name"] == name
            data = member(blob, entry["offset"])[entry.get("innerOffset", 0):][:entry["chunkSize"]]
            assert digest(data) == entry["chunkDigest"], f"a chunk of {name}"
            assert entry.get("chunkOffset", 0) == sum(map(len, chunks[name])), f"where a chunk of {name} belongs"
            chunks[name].append(data)

    for entry, there in zip(files, seen):
        name = entry["name"]
        assert name.rstrip("/") == there.name, (name, there.name)
        assert entry["type"] == KINDS[there.type], name
        assert entry.get("mode", 0) == there.mode, name
        assert (entry.get("uid", 0), entry.get("gid", 0)) == (there.uid, there.gid), name
        assert entry.get("linkName", "") == there.linkname, name
        if there.ischr() or there.isblk():
            assert (entry.get("devMajor", 0), entry.get("devMinor", 0)) == (there.devmajor, there.devminor), name
        seconds = int(float(there.mtime))
        modified = datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ") if seconds else ""
        assert entry.get("modtime", "") == modified, (name, entry.get("modtime"), modified)
        prefix = "SCHILY.xattr."
        xattrs = {key[len(prefix):]: value for key, value in there.pax_headers.items() if key.startswith(prefix)}
        told = {key: base64.b64decode(value).decode("utf-8", "surrogateescape") for key, value in entry.get("xattrs", {}).items()}
        assert told == xattrs, (name, told, xattrs)
        if entry["type"] == "reg":
            data = b"".join(chunks[name])
            assert len(data) == entry.get("size", 0) == there.size, name
            assert digest(data) == entry["digest"], name
            assert data == archive.extractfile(there).read(), name

    print(json.dumps({
        "table": digest(text),
        "size": len(whole),
        "entries": [[entry["type"], entry["name"]] for entry in files],
        "chunks": {name: len(pieces) for name, pieces in chunks.items()},
    }))


main(sys.argv[1])
