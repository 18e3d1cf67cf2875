#!/usr/bin/env python3
"""Prints the entries of each layer of OCI layouts (directories), with the standard library alone.

One JSON document: for each layout a list of layers, lowest first, each {"diff_id": …, "entries": […]}. An entry is a line:
kind, mode, owner, name, then what is in it: `=content` of a small file, `(size)` of a large one, `->target` of a symlink,
`=>name` of a hard link, `major:minor` of a device, `[name=value]` for attributes, and its time: nothing for MARK.123456789,
`new` for the last years, `@seconds` for any other.
"""

import gzip
import io
import json
import pathlib
import sys
import tarfile

MARK = 990000000
KINDS = {
    tarfile.REGTYPE: "f", tarfile.DIRTYPE: "d", tarfile.SYMTYPE: "l", tarfile.LNKTYPE: "h",
    tarfile.FIFOTYPE: "p", tarfile.CHRTYPE: "c", tarfile.BLKTYPE: "b",
}


def text(name):
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def time(member):
    exact = member.pax_headers.get("mtime", str(int(member.mtime)))
    if exact == f"{MARK}.123456789":
        return ""
    return " new" if member.mtime > 1_700_000_000 else f" @{exact}"


def line(archive, member):
    kind = KINDS[member.type]
    out = f"{kind} {member.mode:o} {member.uid}:{member.gid} {text(member.name)}"
    if kind == "f":
        content = archive.extractfile(member).read()
        small = len(content) <= 64
        out += "=" + content.decode("utf-8", "backslashreplace") if small else f"({len(content)})"
    elif kind == "l":
        out += "->" + text(member.linkname)
    elif kind == "h":
        out += "=>" + text(member.linkname)
    elif kind in "cb":
        out += f" {member.devmajor}:{member.devminor}"
    for key, value in sorted(member.pax_headers.items()):
        if key.startswith("SCHILY.xattr."):
            out += f" [{key.removeprefix('SCHILY.xattr.')}={text(value)}]"
    return out + time(member)


def layout(path):
    blob = lambda digest: (path / "blobs" / digest.replace(":", "/")).read_bytes()
    index = json.loads((path / "index.json").read_bytes())
    manifest = json.loads(blob(index["manifests"][0]["digest"]))
    config = json.loads(blob(manifest["config"]["digest"]))
    layers = []
    for descriptor, diff_id in zip(manifest["layers"], config["rootfs"]["diff_ids"]):
        data = gzip.decompress(blob(descriptor["digest"]))
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
            entries = [line(archive, member) for member in archive]
        layers.append({"diff_id": diff_id, "entries": entries})
    return layers


json.dump([layout(pathlib.Path(path)) for path in sys.argv[1:]], sys.stdout)
