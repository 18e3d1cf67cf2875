#!/usr/bin/env python3
"""Reads images with nothing of wharf's: every digest and size is checked, every layer unpacked. Prints as JSON, for each place,
what there is to know: facts of the whole (`names`), and of each image (`layers@linux/amd64`).

    read_image.py PLACE…

A PLACE is `oci:DIR`, `oci-archive:FILE` and `docker-archive:FILE` (which hold nothing else), `oci:DIR#NAME` (one of several), or
`dir:DIR` as skopeo writes it.
"""

import gzip
import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile

REF_NAME = "org.opencontainers.image.ref.name"
FULL_NAME = "io.containerd.image.name"
CREATED = "org.opencontainers.image.created"
# What estargz adds to a layer.
ADDED = ["stargz.index.json", ".no.prefetch.landmark"]


class Layout:
    """Files of an OCI layout, by name."""

    def __init__(self, files):
        self.files = files
        self.read = set()
        assert json.loads(files("oci-layout")) == {"imageLayoutVersion": "1.0.0"}
        self.entries = json.loads(files("index.json"))["manifests"]

    def blob(self, descriptor):
        name = "blobs/" + descriptor["digest"].replace(":", "/")
        self.read.add(name)
        return self.files(name)


class Dir:
    """What `skopeo copy … dir:` leaves."""

    def __init__(self, path):
        self.path = path
        with open(os.path.join(path, "manifest.json"), "rb") as file:
            manifest = file.read()
        media_type = json.loads(manifest)["mediaType"]
        digest = "sha256:" + hashlib.sha256(manifest).hexdigest()
        self.entries = [{"mediaType": media_type, "digest": digest, "size": len(manifest)}]
        self.root = (digest, manifest)

    def blob(self, descriptor):
        if descriptor["digest"] == self.root[0]:
            return self.root[1]
        name = os.path.join(self.path, descriptor["digest"].removeprefix("sha256:"))
        with open(name if os.path.exists(name) else name + ".manifest.json", "rb") as file:
            return file.read()


def short(media_type):
    """`docker gzip` and `oci zstd` say enough of a layer."""
    who = "docker" if "docker" in media_type else "oci"
    last = media_type.replace("+", ".").rsplit(".", 1)[1]
    return f"{who} {last}"


def told(annotations):
    own = {key: value for key, value in annotations.items() if key not in (REF_NAME, FULL_NAME, CREATED)}
    return ",".join(f"{key}={value}" for key, value in sorted(own.items()))


def plain(data, media_type):
    if media_type.endswith("gzip"):
        return gzip.decompress(data)
    if media_type.endswith("zstd"):
        return subprocess.run(["zstd", "-dc"], input=data, stdout=subprocess.PIPE, check=True).stdout
    return data


class Reader:
    def __init__(self, place):
        self.place = place

    def blob(self, descriptor):
        data = self.place.blob(descriptor)
        assert len(data) == descriptor["size"], descriptor
        assert "sha256:" + hashlib.sha256(data).hexdigest() == descriptor["digest"], descriptor
        return data

    def document(self, descriptor):
        document = json.loads(self.blob(descriptor))
        assert document.get("mediaType", descriptor["mediaType"]) == descriptor["mediaType"], descriptor
        return document

    def facts(self, descriptor):
        document = self.document(descriptor)
        if "manifests" not in document:
            return {"index": "none", **self.image(descriptor)}
        facts = {"index": short(descriptor["mediaType"]), "index annotations": told(document.get("annotations", {}))}
        facts["index descriptor annotations"] = told(descriptor.get("annotations", {}))
        for entry in document["manifests"]:
            image = self.image(entry)
            platform = entry["platform"]
            assert all(key.endswith(f"@{platform['os']}/{platform['architecture']}") for key in image), entry
            facts |= image
        return facts

    def image(self, descriptor):
        manifest = self.document(descriptor)
        config = json.loads(self.blob(manifest["config"]))
        layers, files, times = manifest["layers"], {}, []
        assert len(layers) == len(config["rootfs"]["diff_ids"])
        assert len(layers) == sum(1 for it in config["history"] if not it.get("empty_layer"))
        for layer, diff_id in zip(layers, config["rootfs"]["diff_ids"]):
            data = plain(self.blob(layer), layer["mediaType"])
            assert "sha256:" + hashlib.sha256(data).hexdigest() == diff_id, layer
            entries = [it for it in tarfile.open(fileobj=io.BytesIO(data)) if it.name not in ADDED]
            times.append(max(int(it.mtime) for it in entries if it.isfile()))
            for it in entries:
                content = hashlib.sha256(data[it.offset_data:it.offset_data + it.size]).hexdigest()[:12]
                files[it.name] = f"{it.name} {it.type.decode()} {it.mode:o} {it.uid}:{it.gid} {content}"
        facts = {
            "types": f"{descriptor['mediaType']} {manifest['config']['mediaType']}",
            "annotations": told(manifest.get("annotations", {})),
            "descriptor annotations": told(descriptor.get("annotations", {})),
            "layers": ", ".join(short(layer["mediaType"]) for layer in layers),
            "layer annotations": ", ".join(
                "+".join(key.rsplit("/", 1)[-1] for key in sorted(layer.get("annotations", {}))) for layer in layers),
            "bytes": str(sum(layer["size"] for layer in layers)),
            "diff ids": " ".join(config["rootfs"]["diff_ids"]),
            "times": " ".join(map(str, times)),
            "files": "\n".join(files[name] for name in sorted(files)),
            "config": manifest["config"]["digest"],
            "created": config["created"],
            "labels": told(config["config"].get("Labels") or {}),
        }
        platform = f"{config['os']}/{config['architecture']}"
        return {f"{key}@{platform}": value for key, value in facts.items()}


def read(place):
    kind, path = place.split(":", 1)
    path, _, wanted = path.partition("#")
    if kind == "dir":
        place = Dir(path)
        return Reader(place).facts(place.entries[0])
    docker = None
    if kind == "oci":
        def files(name):
            with open(os.path.join(path, name), "rb") as file:
                return file.read()
        present = None
    else:
        archive = tarfile.open(path, "r:")
        members = {member.name: member for member in archive}
        assert all((it.uid, it.gid, it.mtime) == (0, 0, 0) for it in members.values()), "an archive says who wrote it"

        def files(name):
            return archive.extractfile(members[name]).read()
        present = {name for name in members if members[name].isfile()}
        docker = json.loads(files("manifest.json")) if "manifest.json" in members else None
        assert (docker is not None) == (kind == "docker-archive"), kind
    place = Layout(files)
    if present is None and not wanted:
        blobs = os.path.join(path, "blobs/sha256")
        present = {f"blobs/sha256/{name}" for name in os.listdir(blobs)}
    entries = [it for it in place.entries if not wanted or it.get("annotations", {}).get(REF_NAME) == wanted]
    assert len({it["digest"] for it in entries}) == 1, f"{len(entries)} images"
    facts = Reader(place).facts(entries[0])
    if wanted:
        # The other names that a store has for it.
        entries = [it for it in place.entries if it["digest"] == entries[0]["digest"]]
        facts["names"] = " ".join(sorted(it["annotations"][REF_NAME] for it in entries if it.get("annotations")))
        return facts
    left = present - place.read - {"oci-layout", "index.json", "manifest.json"}
    assert not left, f"nothing needs {left}"
    notes = [it.get("annotations", {}) for it in entries]
    for note in notes:
        assert note[CREATED] == max(value for key, value in facts.items() if key.startswith("created@"))
        # Other tools find it by its tag.
        assert FULL_NAME not in note or note[FULL_NAME].rsplit(":", 1)[1] == note[REF_NAME], note
    facts["names"] = " ".join(sorted(note[FULL_NAME] for note in notes if FULL_NAME in note))
    if docker is not None:
        [item] = docker
        image = Reader(place).document(entries[0])
        if "manifests" in image:
            image = Reader(place).document(image["manifests"][0])
        path_of = lambda descriptor: "blobs/" + descriptor["digest"].replace(":", "/")
        assert item["Config"] == path_of(image["config"]), item
        assert item["Layers"] == list(map(path_of, image["layers"])), item
        facts["docker names"] = " ".join(sorted(item["RepoTags"]))
    return facts


print(json.dumps({place: read(place) for place in sys.argv[1:]}))
