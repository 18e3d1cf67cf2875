"""The workloads that move layers: pulled, pushed, exported, and how much memory that takes."""
import json
import random
import shutil
import statistics
import subprocess
import threading
import time

from measure import LAYOUTS, Sample, dockerfile, interleaved, many_files, measure

MIB = 1 << 20
# What a step makes of a part of 50 MiB: a file of 500 MiB and 5,000 small ones.
LARGE = "RUN --mount=type=bind,source=part,target=/part mkdir /many && for i in 0 1 2 3 4 5 6 7 8 9; do cat /part; done >/big && cd /many && split -b 10485 -a 4 /part"
COMPRESSIONS = ("gzip", "zstd")


class Registry:
    """Debian's docker-registry on a loopback port, with an empty directory."""

    def __init__(self, scratch):
        self.data = scratch / f"registry-{time.monotonic_ns()}"
        self.data.mkdir()
        config = self.data / "config.yml"
        config.write_text(f"version: 0.1\nlog: {{level: info}}\nstorage: {{filesystem: {{rootdirectory: {self.data}/data}}}}\n"
                          "http: {addr: '127.0.0.1:0'}\n")
        self.process = subprocess.Popen(["docker-registry", "serve", config], stdin=subprocess.DEVNULL,
                                        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        line = next(line for line in self.process.stderr if "listening on " in line)
        self.host = line.split("listening on ")[1].split('"')[0].split()[0].rstrip(",")
        # A full pipe would stop it.
        threading.Thread(target=self.process.stderr.read, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.process.stderr.close()

    def blob(self, digest):
        name = digest.removeprefix("sha256:")
        return self.data / "data/docker/registry/v2/blobs/sha256" / name[:2] / name / "data"


def half_random(path, size_bytes, seed=1):
    """Pieces of text and of noise in turn: compresses to about two thirds."""
    generator = random.Random(seed)
    words = [bytes(generator.choices(b"abcdefghijklmnopqrstuvwxyz_(){};. \n", k=generator.randint(2, 12))) for _ in range(4000)]
    piece = 64 << 10
    with path.open("wb") as out:
        for number in range(size_bytes // piece):
            if number % 2:
                out.write(generator.randbytes(piece))
            else:
                out.write(b" ".join(generator.choices(words, k=piece // 6))[:piece].ljust(piece))


def large_context(scratch, more=""):
    context = dockerfile(scratch, f"large-{len(more)}", f"FROM base\n{LARGE}\n{more}")
    if not (context / "part").exists():
        half_random(context / "part", 50 * MIB)
    return context


def bench_pull(table, builders, scratch, runs):
    """An empty store, and a base in a registry beside it."""
    with Registry(scratch) as registry:
        name = f"{registry.host}/debian:latest"
        subprocess.run(["skopeo", "copy", "--dest-tls-verify=false", f"oci:{LAYOUTS['debian']}:latest", f"docker://{name}"],
                       check=True, capture_output=True)
        add_pull(table, "FROM debian + RUN true, empty store, local registry", builders, scratch, runs, name)


def add_pull(table, title, builders, scratch, runs, name):
    context = dockerfile(scratch, f"pull-{time.monotonic_ns()}", f"FROM {name}\nRUN true\n")
    by_name = {b.name: b for b in builders}
    layer = largest_layer(name)
    decoder = "zstd -dc" if layer["mediaType"].endswith("zstd") else "gzip -dc"
    host, repository = name.split("/")
    url = f"http://{host}/v2/{repository.split(':')[0]}/blobs/{layer['digest']}"
    limit = f"limit: {decoder.split()[0]} -d, tar -x"

    def fresh(who):
        if who in by_name:
            by_name[who].reset(with_bases=False)
            return by_name[who].build(context, None)
        target = scratch / f"unpacked-{time.monotonic_ns()}"
        target.mkdir()
        return ["bash", "-c", f"set -o pipefail; curl -sf {url} | {decoder} | tar -xf - -C {target}"]

    table.add(title, interleaved(runs, dict.fromkeys([*by_name, limit]), fresh))


def largest_layer(name):
    raw = subprocess.run(["skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{name}"], check=True, capture_output=True)
    return max(json.loads(raw.stdout)["layers"], key=lambda layer: layer["size"])


def bench_copy(table, builders, scratch, runs):
    context = dockerfile(scratch, "copy", "FROM scratch\nCOPY files /files\n")
    many_files(context, 20_000, 200_000_000)
    archive = scratch / "out.tar"
    by_name = {b.name: b for b in builders}
    pack = f"tar -cf - -C {context} files | tee >(sha256sum >/dev/null) | gzip -1 | sha256sum"

    def fresh(name):
        archive.unlink(missing_ok=True)
        if name not in by_name:
            return ["bash", "-c", pack]
        by_name[name].reset()
        return by_name[name].build(context, "busybox", no_cache=True, archive=archive)

    names = [*by_name, "limit: tar, 2 hashes, gzip -1"]
    table.add("COPY 20,000 files, 200 MB, to an OCI archive, gzip", interleaved(runs, dict.fromkeys(names), fresh))

    changed = context / "files/123/12345.txt"
    hashes = f"tar -cf - -C {context} files | tee >(sha256sum >/dev/null) | sha256sum"

    def again(name):
        archive.unlink(missing_ok=True)
        if name not in by_name:
            return ["bash", "-c", hashes]
        changed.write_text(f"changed at {time.monotonic_ns()}\n" * 300)
        return by_name[name].build(context, "busybox", archive=archive)

    names = [*by_name, "limit: tar, 2 hashes"]
    table.add("the same again with one file changed", interleaved(runs, dict.fromkeys(names), again))


def bench_large(table, builders, scratch, runs):
    """A layer of half a gigabyte: built and exported, pushed, and pulled."""
    context = large_context(scratch)
    by_name = {b.name: b for b in builders}
    archive, files = scratch / "large.tar", scratch / "large-files"
    for compression in COMPRESSIONS:
        # One thread of gzip is what most have; zstd takes both processors.
        tool = {"gzip": "gzip -1", "zstd": "zstd -q -T2 -3"}[compression]
        limit = f"limit: write, tar, 2 hashes, {tool}"

        def fresh(name):
            archive.unlink(missing_ok=True)
            if name in by_name:
                by_name[name].reset()
                return by_name[name].build(context, "debian", archive=archive, compression=compression)
            shutil.rmtree(files, ignore_errors=True)
            (files / "many").mkdir(parents=True)
            write = (f"for i in 0 1 2 3 4 5 6 7 8 9; do cat {context}/part; done >{files}/big; cd {files}/many; split -b 10485 -a 4 {context}/part; "
                     f"tar -cf - -C {files} . | tee >(sha256sum >/dev/null) | {tool} | tee >(sha256sum >/dev/null) >{archive}")
            return ["bash", "-c", write]

        able = [b.name for b in builders if compression == "gzip" or b is builders[0]]
        title = f"RUN writing 500 MB + 5,000 files, built and exported, {compression}"
        table.add(title, interleaved(runs, dict.fromkeys([*able, limit]), fresh))
        bench_push(table, builders[0], context, scratch, runs, compression)
        bench_ahead(table, builders[0], scratch, runs, compression)


def bench_push(table, wharf, context, scratch, runs, compression):
    """An image of the store to an empty registry, and from there to an empty store."""
    samples = {"wharf": [], "limit: read, hash and write a file": []}
    for number in range(runs):
        # One that has nothing: what it has in another repository need not be sent.
        with Registry(scratch) as registry:
            name = f"{registry.host}/large:latest"
            measure(wharf.build(context, "debian", output=f"type=image,name={name},compression={compression}"))
            samples["wharf"].append(measure([wharf.binary, "--root", wharf.root, "push", name]))
            path = registry.blob(largest_layer(name)["digest"])
            copy = scratch / f"copy-{time.monotonic_ns()}"
            samples["limit: read, hash and write a file"].append(measure(["bash", "-c", f"tee {copy} <{path} | sha256sum; sync {copy}"]))
            copy.unlink()
            if number == runs - 1:
                table.add(f"push of it to a local registry, {compression}", samples)
                add_pull(table, f"pull of it and RUN true, {compression}", [wharf], scratch, runs, name)


def bench_ahead(table, wharf, scratch, runs, compression):
    """How much longer a build takes that also pushes, where the last step is longer than the layer takes to be sent."""
    context = large_context(scratch, "RUN sleep 12\n")
    samples = {"wharf": [], "without push": []}
    for _ in range(runs):
        for name in samples:
            wharf.reset()
            with Registry(scratch) as registry:
                output = f"type=registry,name={registry.host}/large:latest,compression={compression}" if name == "wharf" else "type=cacheonly"
                samples[name].append(measure(wharf.build(context, "debian", output=output)))
    without = statistics.median(sample.wall for sample in samples.pop("without push"))
    samples["wharf"] = [Sample(sample.wall - without, sample.cpu, sample.rss_kb) for sample in samples["wharf"]]
    table.add(f"push of it, after the last step of 12 s, {compression}", samples)


def bench_memory(table, builders, scratch, _runs):
    """2 GiB in one layer, one file or many: what each way in and out takes at most."""
    wharf = builders[0]
    script = "for i in 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31"
    one = f"RUN --mount=type=bind,source=part,target=/part {script}; do cat /part; done >/big\n"
    many = f"RUN --mount=type=bind,source=part,target=/part {script}; do mkdir /$i; cd /$i; split -b 32768 -a 3 /part; done\n"
    for shape, step in (("one file", one), ("65,536 files", many)):
        context = dockerfile(scratch, f"memory-{len(shape)}", f"FROM base\n{step}")
        half_random(context / "part", 64 * MIB)
        for compression in COMPRESSIONS:
            wharf.reset()
            samples = {}
            with Registry(scratch) as registry:
                name = f"{registry.host}/memory:latest"
                out = scratch / "memory-out"
                for what, output in (
                    ("build and push", f"type=registry,name={name},compression={compression}"),
                    ("oci archive", f"type=oci,dest={out},compression={compression}"),
                    ("docker archive", f"type=docker,dest={out},compression={compression}"),
                    ("tar", f"type=tar,dest={out}"),
                    ("local", f"type=local,dest={out}"),
                ):
                    samples[f"wharf, {what}"] = [measure(wharf.build(context, "debian", output=output))]
                    shutil.rmtree(out, ignore_errors=True) if out.is_dir() else out.unlink(missing_ok=True)
                pull = dockerfile(scratch, "memory-pull", f"FROM {name}\nRUN true\n")
                wharf.reset()
                samples["wharf, pull"] = [measure(wharf.build(pull, None))]
            table.add(f"a layer of 2 GiB, {shape}, {compression}", samples)
            for store in scratch.glob("wharf-*"):
                shutil.rmtree(store, ignore_errors=True)
