#!/usr/bin/env python3
"""Times wharf and its peers on the same inputs, interleaved, beside what the machine itself takes.

    bench.py WHARF [--runs N] [--only NAME] [--alone] [--markdown FILE]

Prints a table: median, minimum and maximum of the wall time, processor time and peak memory (of the largest process), the
ratio of each median to wharf's, and for rebuilds that have nothing to do the number of wharf's system calls. Needs root, and the
base layouts that testdata/base makes.
"""
import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import containers
import transfers
from measure import LAYOUTS, REPO, Buildah, Table, Wharf, dockerfile, interleaved, many_files, measure, system_calls


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


def bench_parse():
    """Prints what the parser says of itself: best of some rounds in one process, no file read or written."""
    command = ["cargo", "bench", "-q", "-p", "wharf-frontend", "--bench", "parse"]
    for line in subprocess.run(command, cwd=REPO, capture_output=True, check=True, text=True).stdout.splitlines():
        print(f"parse and type a Dockerfile: {line}", flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("wharf", type=Path)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--only", default="", help="the workloads with this in their name: unchanged, check, true-busybox, true-debian, "
                        "runtimes, parallel, parse, pull, copy, large, memory, containers")
    parser.add_argument("--alone", action="store_true", help="no peers")
    parser.add_argument("--markdown", type=Path)
    options = parser.parse_args()
    scratch = Path(tempfile.mkdtemp(prefix="wharf-bench-", dir=os.environ.get("TMPDIR", "/var/tmp")))
    builders = [Wharf(options.wharf.resolve(), scratch)]
    if options.alone:
        pass
    elif shutil.which("buildah") and shutil.which("skopeo"):
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
        "pull": lambda: transfers.bench_pull(table, builders, scratch, runs),
        "copy": lambda: transfers.bench_copy(table, builders, scratch, max(1, runs - 2)),
        "large": lambda: transfers.bench_large(table, builders, scratch, max(1, runs - 2)),
        "memory": lambda: transfers.bench_memory(table, builders, scratch, 1),
        # The last: it gives this process another network, and mounts.
        "containers": lambda: containers.bench_containers(table, options.wharf.resolve(), runs, options.alone),
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
