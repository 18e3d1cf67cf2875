#!/usr/bin/env python3
"""Times wharf and its peers on the same inputs, interleaved, beside what the machine itself takes.

    bench.py WHARF [--runs N] [--only WORD] [--markdown FILE]

Prints a table: median, minimum and maximum of the wall time, processor time and peak memory (of the largest process), the
ratio of each median to wharf's, and for rebuilds that have nothing to do the number of wharf's system calls. Needs root, and the
base layouts that testdata/base makes.
"""
import argparse
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
LAYOUTS = {"busybox": REPO / ".cache/busybox", "debian": REPO / ".cache/debian"}


class Sample:
    """What one run of a command took."""

    def __init__(self, wall, cpu, rss_kb):
        self.wall, self.cpu, self.rss_kb = wall, cpu, rss_kb


def measure(argv, cwd=None):
    """Runs a command to its end, output thrown away; fails loudly if it fails."""
    with tempfile.TemporaryFile() as log:
        start = time.monotonic()
        process = subprocess.Popen(argv, cwd=cwd, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.monotonic() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            log.seek(0)
            raise SystemExit(f"{' '.join(map(str, argv))}: status {process.returncode}\n{log.read().decode(errors='replace')[-3000:]}")
    return Sample(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss)


class Wharf:
    def __init__(self, binary, scratch, sandbox=None):
        self.binary, self.scratch, self.stores = binary, scratch, 0
        self.sandbox = ["--sandbox", sandbox] if sandbox else []
        self.name = f"wharf, {sandbox}" if sandbox else "wharf"
        self.reset()

    def reset(self):
        """Goes on with an empty store. The old one is deleted at the end of all: ext4 does not use the inodes of deleted
        files again for minutes, and looks for others one by one."""
        self.stores += 1
        self.root = self.scratch / f"{self.name.replace(', ', '-')}-{self.stores}"

    def build(self, context, base, no_cache=False, archive=None):
        argv = [self.binary, *self.sandbox, "--root", self.root, "build", "--progress", "plain", "-t", "bench",
                "--build-context", f"base=oci-layout://{LAYOUTS[base]}:latest"]
        argv += ["--no-cache"] if no_cache else []
        argv += ["-o", f"type=oci,dest={archive}"] if archive else []
        return [*argv, context]


class Buildah:
    name = "buildah"

    def __init__(self, scratch):
        self.scratch, self.stores = scratch, 0
        # The runtime it finds must be able to run here: with cgroup v1 crun refuses.
        self.isolation = ["--isolation", "oci", "--runtime", shutil.which("runc") or "crun"]
        self.reset()

    def reset(self):
        """Goes on with an empty storage that has the base images."""
        self.stores += 1
        root, run = (self.scratch / f"buildah-{self.stores}" / name for name in ("root", "run"))
        self.storage = ["--root", root, "--runroot", run, "--storage-driver", "overlay"]
        for name, layout in LAYOUTS.items():
            target = f"containers-storage:[overlay@{root}+{run}]localhost/{name}:latest"
            subprocess.run(["skopeo", "copy", f"oci:{layout}:latest", target], capture_output=True, check=True)

    def build(self, context, base, no_cache=False, archive=None):
        argv = ["buildah", *self.storage, "build", *self.isolation, "--layers", "--network", "host", "--pull-never", "--jobs", "8",
                "--build-context", f"base=container-image://localhost/{base}"]
        argv += ["--no-cache"] if no_cache else []
        argv += ["-t", f"oci-archive:{archive}" if archive else "localhost/bench"]
        return [*argv, context]


def dockerfile(scratch, name, text, base="base"):
    context = scratch / name
    context.mkdir(exist_ok=True)
    (context / "Dockerfile").write_text(text.replace("@BASE@", base))
    return context


def many_files(context, count, size_bytes):
    """Files of mixed sizes that compress about as source code does, in directories of a hundred."""
    generator = random.Random(1)
    words = [bytes(generator.choices(b"abcdefghijklmnopqrstuvwxyz_(){};. \n", k=generator.randint(2, 12))) for _ in range(4000)]
    mean = size_bytes // count
    for index in range(count):
        path = context / "files" / f"{index // 100:03}" / f"{index:05}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        wanted = generator.randint(mean // 4, mean * 7 // 4)
        data = b" ".join(generator.choices(words, k=wanted // 8 + 1))[:wanted]
        path.write_bytes(data)


def interleaved(runs, commands, fresh=None, once=()):
    """Runs the commands (or what `fresh` gives for their names) in turn, `runs` times, those in `once` a single time; a list of
    samples each."""
    samples = {name: [] for name in commands}
    for number in range(runs):
        for name, argv in commands.items():
            if number == 0 or name not in once:
                samples[name].append(measure(fresh(name) if fresh else argv))
    return samples


def system_calls(argv):
    """How many system calls a command makes, by all its threads; nothing without strace."""
    if not shutil.which("strace"):
        return ""
    with tempfile.NamedTemporaryFile("r") as log:
        subprocess.run(["strace", "-f", "-c", "-U", "calls,name", "-o", log.name, *argv], capture_output=True, check=True)
        return next(line.split()[0] for line in reversed(log.readlines()) if line.split()[-1:] == ["total"])


class Table:
    def __init__(self):
        self.rows = []

    def add(self, workload, samples, scale=1.0, minus=None, calls=""):
        """One row a command. With `minus` each wall time is what it takes more than that command's, divided by `scale`. `calls`
        are wharf's system calls."""
        medians = {}
        for name, found in samples.items():
            base = statistics.median(s.wall for s in minus[name]) if minus and name in minus else 0.0
            walls = sorted((s.wall - base) * scale for s in found)
            medians[name] = statistics.median(walls)
            self.rows.append([workload, name, f"{medians[name]:.4f}", f"{walls[0]:.4f}", f"{walls[-1]:.4f}",
                              f"{statistics.median(s.cpu for s in found):.3f}", f"{max(s.rss_kb for s in found) / 1024:.0f}", "", calls if name == "wharf" else ""])
            workload = ""
        own = medians.get("wharf")
        for row in self.rows[-len(samples):]:
            if own and row[1] != "wharf":
                row[-2] = f"{medians[row[1]] / own:.2f}"
        self.show(len(samples))

    HEAD = ["workload", "who", "median s", "min s", "max s", "cpu s", "peak MB", "× wharf", "calls"]

    def show(self, last):
        for row in self.rows[-last:]:
            print("  ".join(f"{cell:<{width}}" for cell, width in zip(row, (50, 22, 9, 9, 9, 8, 8, 8, 8))), flush=True)

    def markdown(self):
        lines = ["| " + " | ".join(self.HEAD) + " |", "|" + "---|" * len(self.HEAD)]
        return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in self.rows]) + "\n"


def can_build(peer, context, title):
    """Builds it once with a peer; one that cannot (too many layers for its storage) is left out of the row."""
    peer.reset()
    try:
        measure(peer.build(context, "busybox"))
    except SystemExit as failure:
        print(f"SKIP: {peer.name}, {title}: {str(failure).splitlines()[-1]}", file=sys.stderr)
        return False
    return True


def bench_unchanged(table, builders, scratch, runs):
    """Rebuilds that have nothing to do. What a peer takes minutes for it does once."""

    def steps(count):
        return "FROM base\n" + "".join(f"RUN echo {n} > /f{n}\nENV K{n}={n}\n" for n in range(count))

    stages = "".join(f"FROM base AS s{n}\nRUN echo {n} > /out\n" for n in range(199))
    joined = "FROM base\n" + "".join(f"COPY --from=s{n} /out /out{n}\n" for n in range(199))
    few = "COPY files/000/00000.txt files/001/00100.txt /few/\nCOPY files/002 /dir\n"
    files = scratch / "unchanged-files"
    files.mkdir(exist_ok=True)
    many_files(files, 20_000, 20_000_000)
    workloads = [
        ("30 instructions", steps(14) + "COPY Dockerfile /\n", None),
        ("300 instructions", steps(149) + "COPY Dockerfile /\n", None),
        ("200 stages joined by COPY --from", stages + joined, None),
        ("30 instructions, COPY of 20,000 files", steps(14) + "COPY files /files\n", files),
        ("30 instructions, COPY of 102 of 20,000 files", steps(14) + few, files),
    ]
    for number, (title, text, directory) in enumerate(workloads):
        context = dockerfile(directory.parent if directory else scratch, directory.name if directory else f"unchanged-{number}", text)
        able = [builder for builder in builders if builder is builders[0] or can_build(builder, context, title)]
        builders[0].reset()
        wharf = builders[0].build(context, "busybox")
        measure(wharf)
        # Digests of files that had just been written are remembered from the second time on.
        measure(wharf)
        commands = {b.name: b.build(context, "busybox") for b in able} | {"limit: start a process": ["/bin/true"]}
        once = [b.name for b in able[1:]] if number else []
        samples = interleaved(max(20, runs), commands, once=once)
        table.add(f"unchanged rebuild, {title}", samples, calls=system_calls(wharf))


def bench_check(table, builders, scratch, runs):
    """The whole process: with no store, and with one that is looked into for the base."""
    lines = ["FROM debian:12 AS base", "ARG VERSION=1", "ENV PATH=$PATH:/opt/bin"]
    for n in range(74):
        lines += [f"RUN apt-get update && apt-get install -y package-{n}", f"ENV ITEM_{n}=$VERSION-{n}",
                  f"COPY src/{n} /dst/{n}/", f'LABEL label-{n}="${{ITEM_{n}}}"']
    context = dockerfile(scratch, "check", "\n".join([*lines, 'CMD ["x"]']) + "\n")
    wharf = builders[0]
    wharf.reset()
    made = dockerfile(scratch, "check-store", "FROM scratch\nCOPY Dockerfile /\n")
    measure([wharf.binary, "--root", wharf.root, "build", made])
    commands = {"wharf": [wharf.binary, "--root", scratch / "nowhere", "build", "--check", context],
                "wharf, with a store": [wharf.binary, "--root", wharf.root, "build", "--check", context],
                "limit: start a process": ["/bin/true"]}
    table.add("--check of 300 instructions", interleaved(max(20, runs), commands))


def bench_run_true(table, builders, scratch, runs, base):
    """The same in every sandbox that there is here, and twice: few steps and more, of which the difference counts."""
    sandboxes = [Wharf(builders[0].binary, scratch, name) for name in ("rootless", "rootless-single", "chroot")]
    builders = builders + [it for it in sandboxes if can_build(it, dockerfile(scratch, "true", "FROM base\nRUN true\n"), "RUN true")]
    one = dockerfile(scratch, f"true-1-{base}", "FROM base\nRUN true 0\n")
    many = dockerfile(scratch, f"true-21-{base}", "FROM base\n" + "".join(f"RUN true {n}\n" for n in range(21)))
    for builder in builders:
        builder.reset()
        measure(builder.build(one, base))
    few = interleaved(runs, {b.name: b.build(one, base, no_cache=True) for b in builders})
    more = interleaved(runs, {b.name: b.build(many, base, no_cache=True) for b in builders})
    table.add(f"per RUN true, {base} base", more, scale=1 / 20, minus=few)


def bench_runtimes(table, scratch, runs):
    bundle = scratch / "bundle"
    subprocess.run(["umoci", "unpack", "--image", f"{LAYOUTS['busybox']}:latest", bundle], check=True, capture_output=True)
    commands = {"limit: fork and exec": ["/bin/true"]}
    for runtime in ("runc", "crun"):
        if not shutil.which(runtime):
            continue
        config = (bundle / "config.json").read_text().replace('"terminal": true', '"terminal": false')
        (bundle / "config.json").write_text(config.replace('"/bin/sh"', '"/bin/true"'))
        argv = [runtime, "run", "--bundle", bundle, f"bench-{runtime}"]
        # crun refuses where both versions of control groups are mounted: it gets a place where one is.
        alone = ["unshare", "--mount", "sh", "-c", 'mount -t cgroup2 none /sys/fs/cgroup && exec "$@"', "sh", runtime,
                 "--cgroup-manager=disabled", *argv[1:]]
        for name, command in ((f"limit: {runtime} run", argv), (f"limit: {runtime} run, with cgroup v2 alone", alone)):
            if subprocess.run(command, capture_output=True, check=False).returncode == 0:
                commands[name] = command
                break
        else:
            print(f"SKIP: {runtime} cannot run a container here", file=sys.stderr)
    table.add("a process in a container", interleaved(runs, commands))


def bench_parallel(table, builders, scratch, runs):
    stages = "".join(f"FROM base AS s{n}\nRUN sleep 1; echo {n} > /out\n" for n in range(8))
    joined = "FROM base\n" + "".join(f"COPY --from=s{n} /out /out{n}\n" for n in range(8))
    context = dockerfile(scratch, "parallel", stages + joined)
    for builder in builders:
        builder.reset()
        measure(builder.build(context, "busybox"))
    commands = {b.name: b.build(context, "busybox", no_cache=True) for b in builders}
    table.add("8 stages of RUN sleep 1, joined", interleaved(runs, commands | {"limit: sleep 1": ["sleep", "1"]}))


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
    table.add("COPY 20,000 files, 200 MB, to an OCI archive", interleaved(runs, dict.fromkeys(names), fresh))


def bench_parse():
    """Prints what the parser says of itself: best of some rounds in one process, no file read or written."""
    command = ["cargo", "bench", "-q", "-p", "wharf-frontend", "--bench", "parse"]
    for line in subprocess.run(command, cwd=REPO, capture_output=True, check=True, text=True).stdout.splitlines():
        print(f"parse and type a Dockerfile: {line}", flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("wharf", type=Path)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--only", default="")
    parser.add_argument("--markdown", type=Path)
    options = parser.parse_args()
    scratch = Path(tempfile.mkdtemp(prefix="wharf-bench-", dir=os.environ.get("TMPDIR", "/var/tmp")))
    builders = [Wharf(options.wharf.resolve(), scratch)]
    if shutil.which("buildah") and shutil.which("skopeo"):
        builders.append(Buildah(scratch))
    else:
        print("SKIP: buildah or skopeo is not installed; wharf is timed alone", file=sys.stderr)
    table = Table()
    table.rows.append(Table.HEAD)
    table.show(1)
    table.rows.clear()
    runs = options.runs
    workloads = {
        "unchanged": lambda: bench_unchanged(table, builders, scratch, runs),
        "check": lambda: bench_check(table, builders, scratch, runs),
        "true-busybox": lambda: bench_run_true(table, builders, scratch, runs, "busybox"),
        "true-debian": lambda: bench_run_true(table, builders, scratch, runs, "debian"),
        "runtimes": lambda: bench_runtimes(table, scratch, runs),
        "parallel": lambda: bench_parallel(table, builders, scratch, runs),
        "parse": bench_parse,
        "copy": lambda: bench_copy(table, builders, scratch, max(1, runs - 2)),
    }
    try:
        for name, workload in workloads.items():
            if options.only in name:
                workload()
    finally:
        for path in (*scratch.glob("buildah-*/root/overlay"), scratch):
            subprocess.run(["umount", path], capture_output=True, check=False)
        shutil.rmtree(scratch, ignore_errors=True)
    if options.markdown:
        options.markdown.write_text(table.markdown())


if __name__ == "__main__":
    main()
