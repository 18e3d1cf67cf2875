"""Running commands and measuring them, and the table of what was found."""
import os
import random
import shutil
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
LAYOUTS = {"busybox": REPO / ".cache/busybox", "debian": REPO / ".cache/debian"}


class Sample:
    """What one run of a command took."""

    def __init__(self, wall, cpu, rss_kb):
        self.wall, self.cpu, self.rss_kb = wall, cpu, rss_kb


class By(list):
    """A command, and by whom: a uid, and the environment."""

    def __init__(self, argv, uid, variables):
        super().__init__(argv)
        ids = {} if uid is None else {"user": uid, "group": uid, "extra_groups": []}
        self.how = ids | {"env": variables}


def measure(argv, cwd=None):
    """Runs a command to its end, output thrown away; fails loudly if it fails."""
    with tempfile.TemporaryFile() as log:
        start = time.monotonic()
        process = subprocess.Popen(argv, cwd=cwd, stdin=subprocess.DEVNULL, stdout=log, stderr=log, **getattr(argv, "how", {}))
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

    def reset(self, with_bases=False):
        """Goes on with an empty store, which has no bases in any case. The old one is deleted at the end of all: ext4 does not use the inodes of deleted
        files again for minutes, and looks for others one by one."""
        self.stores += 1
        self.root = self.scratch / f"{self.name.replace(', ', '-')}-{self.stores}"

    def build(self, context, base, no_cache=False, archive=None, compression="gzip", output=None):
        argv = [self.binary, *self.sandbox, "--root", self.root, "build", "--progress", "plain"]
        argv += ["--build-context", f"base=oci-layout://{LAYOUTS[base]}:latest"] if base else []
        argv += [] if output else ["-t", "bench"]
        argv += ["--no-cache"] if no_cache else []
        argv += ["-o", f"type=oci,dest={archive},compression={compression}"] if archive else []
        argv += ["-o", output] if output else []
        return [*argv, context]


class Buildah:
    name = "buildah"

    def __init__(self, scratch):
        self.scratch, self.stores = scratch, 0
        # The runtime it finds must be able to run here: with cgroup v1 crun refuses.
        self.isolation = ["--isolation", "oci", "--runtime", shutil.which("runc") or "crun"]
        self.reset()

    def reset(self, with_bases=True):
        """Goes on with an empty storage that has the base images, or with nothing."""
        self.stores += 1
        root, run = (self.scratch / f"buildah-{self.stores}" / name for name in ("root", "run"))
        self.storage = ["--root", root, "--runroot", run, "--storage-driver", "overlay"]
        for name, layout in LAYOUTS.items() if with_bases else ():
            target = f"containers-storage:[overlay@{root}+{run}]localhost/{name}:latest"
            subprocess.run(["skopeo", "copy", f"oci:{layout}:latest", target], capture_output=True, check=True)

    def build(self, context, base, no_cache=False, archive=None, compression="gzip"):
        argv = ["buildah", *self.storage, "build", *self.isolation, "--layers", "--network", "host", "--jobs", "8"]
        argv += ["--pull-never", "--build-context", f"base=container-image://localhost/{base}"] if base else ["--tls-verify=false"]
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

    def add(self, workload, samples, scale=1.0, minus=None, calls="", own="wharf"):
        """One row a command. With `minus` each wall time is what it takes more than that command's, divided by `scale`. `calls`
        are the system calls of `own`, with which the others are compared."""
        medians = {}
        for name, found in samples.items():
            base = statistics.median(s.wall for s in minus[name]) if minus and name in minus else 0.0
            walls = sorted((s.wall - base) * scale for s in found)
            medians[name] = statistics.median(walls)
            self.rows.append([workload, name, f"{medians[name]:.4f}", f"{walls[0]:.4f}", f"{walls[-1]:.4f}",
                              f"{statistics.median(s.cpu for s in found):.3f}", f"{max(s.rss_kb for s in found) / 1024:.0f}", "", calls if name == own else ""])
            workload = ""
        of_own = medians.get(own)
        for row in self.rows[len(self.rows) - len(samples):]:
            if of_own and row[1] != own:
                row[-2] = f"{medians[row[1]] / of_own:.2f}"
        self.show(len(samples))

    HEAD = ["workload", "who", "median s", "min s", "max s", "cpu s", "peak MB", "× wharf", "calls"]

    def show(self, last):
        for row in self.rows[len(self.rows) - last:]:
            print("  ".join(f"{cell:<{width}}" for cell, width in zip(row, (50, 22, 9, 9, 9, 8, 8, 8, 8))), flush=True)

    def markdown(self):
        lines = ["| " + " | ".join(self.HEAD) + " |", "|" + "---|" * len(self.HEAD)]
        return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in self.rows]) + "\n"
