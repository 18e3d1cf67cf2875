"""Copies an OCI layout of one image and changes one thing of it: plant.py FROM TO EDIT."""
import gzip, hashlib, io, json, os, shutil, sys, tarfile

source, target, edit = sys.argv[1:]
shutil.copytree(source, target)


def read(digest):
    with open(os.path.join(target, "blobs/sha256", digest.split(":")[1]), "rb") as blob:
        return blob.read()


def write(data):
    digest = hashlib.sha256(data).hexdigest()
    with open(os.path.join(target, "blobs/sha256", digest), "wb") as blob:
        blob.write(data)
    return {"digest": "sha256:" + digest, "size": len(data)}


with open(os.path.join(target, "index.json")) as file:
    index = json.load(file)
manifest = json.loads(read(index["manifests"][0]["digest"]))
config = json.loads(read(manifest["config"]["digest"]))
config_was = json.dumps(config)

tars = [gzip.decompress(read(layer["digest"])) for layer in manifest["layers"]]
archives = [tarfile.open(fileobj=io.BytesIO(tar)) for tar in tars]
number = next(n for n, archive in enumerate(archives) if "tree/a" in archive.getnames())
tar, archive = tars[number], archives[number]
entries = [(entry, archive.extractfile(entry).read() if entry.isreg() else None) for entry in archive]
at = next(n for n, (entry, _) in enumerate(entries) if entry.name == "tree/a")
entry, data = entries[at]
level = 4

if edit in ("byte", "lie"):
    entries[at] = (entry, data[:2] + b"X" + data[3:])
elif edit == "mode":
    entry.mode = 0o600
elif edit == "mtime":
    entry.mtime = 5
elif edit == "uid":
    entry.uid = 7
elif edit == "xattr":
    entry.pax_headers = dict(entry.pax_headers, **{"SCHILY.xattr.user.planted": "v"})
elif edit == "extra":
    extra = tarfile.TarInfo("tree/extra")
    entries.insert(at + 1, (extra, b""))
elif edit == "removed":
    del entries[at]
elif edit == "order":
    entries[at], entries[at + 1] = entries[at + 1], entries[at]
elif edit == "env":
    config["config"]["Env"][-1] = "WHERE=there"
elif edit == "label":
    config["config"]["Labels"]["planted"] = "yes"
elif edit == "history":
    config["history"][-1]["created_by"] = "LABEL other"
elif edit == "annotation":
    manifest["annotations"] = {"planted": "yes"}
elif edit == "missing":
    at = next(n for n, entry in enumerate(config["history"]) if entry.get("created_by", "").startswith("LABEL"))
    del config["history"][at]
elif edit == "inserted":
    # The lowest one once more, in the middle.
    made = [n for n, entry in enumerate(config["history"]) if not entry.get("empty_layer")]
    manifest["layers"].insert(number, manifest["layers"][0])
    config["rootfs"]["diff_ids"].insert(number, config["rootfs"]["diff_ids"][0])
    config["history"].insert(made[number], {"created_by": "RUN planted"})
elif edit == "layer":
    manifest["layers"].append(manifest["layers"][number])
    config["rootfs"]["diff_ids"].append(config["rootfs"]["diff_ids"][number])
    config["history"].append({"created_by": "RUN planted"})

if edit in ("byte", "lie", "mode", "mtime", "uid", "xattr", "extra", "removed", "order"):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as made:
        for entry, data in entries:
            if data is not None:
                entry.size = len(data)
            made.addfile(entry, io.BytesIO(data) if data is not None else None)
    tar = out.getvalue()
elif edit == "zeros":
    tar += bytes(512)
if edit not in ("env", "label", "history", "missing", "inserted", "annotation", "layer", "none"):
    manifest["layers"][number].update(write(gzip.compress(tar, 9, mtime=0)))
    if edit != "lie":
        config["rootfs"]["diff_ids"][number] = "sha256:" + hashlib.sha256(tar).hexdigest()

if edit == "none" or json.dumps(config) != config_was:
    manifest["config"].update(write(json.dumps(config).encode()))
index["manifests"][0].update(write(json.dumps(manifest).encode()))
with open(os.path.join(target, "index.json"), "w") as file:
    json.dump(index, file)
