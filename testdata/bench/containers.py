"""Containers: how long one takes from the command to its end, and how long ten services take to come and to go, for root and
for an ordinary user, with wharf and its peers."""
import ctypes
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from measure import LAYOUTS, By, Sample, interleaved, measure

# Whom only this process knows.
UID = 54_321
CLONE_NEWNS, CLONE_NEWNET = 0x20000, 0x40000000

# What ends at once when it is asked to, as services should.
SERVICE = ["sh", "-c", "trap 'exit 0' TERM; while :; do sleep 1000 & wait; done"]


def tool(*argv):
    subprocess.run([str(word) for word in argv], check=True, stdin=subprocess.DEVNULL, capture_output=True)


def part(scratch):
    """Gives this process a network and mounts of its own, in which there are a user and the device that pasta needs: what is measured
    makes bridges and rules, and the machine's own stay as they are. There is no way back: this is the last that is measured."""
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNS | CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "no namespaces for containers to be measured in")
    tool("mount", "--make-rprivate", "/")
    tool("ip", "link", "set", "lo", "up")
    # A way out that nobody answers on: pasta and slirp4netns want to see one.
    tool("ip", "link", "add", "out", "type", "veth", "peer", "name", "nowhere")
    for name in ("out", "nowhere"):
        tool("ip", "link", "set", name, "up")
    tool("ip", "address", "add", "198.51.100.2/24", "dev", "out")
    tool("ip", "route", "add", "default", "via", "198.51.100.1")
    home = scratch / "home"
    (home / "run").mkdir(parents=True)
    scratch.chmod(0o755)
    lines = {"passwd": f"bench:x:{UID}:{UID}::{home}:/bin/sh\n", "group": f"bench:x:{UID}:\n", "subuid": "bench:600000:65536\n", "subgid": "bench:600000:65536\n"}
    for name, line in lines.items():
        kept = Path("/etc", name).read_text() if name in ("passwd", "group") else ""
        (scratch / name).write_text(kept + line)
        Path("/etc", name).touch()
        tool("mount", "--bind", scratch / name, Path("/etc", name))
    if Path("/dev/net/tun").exists():
        tool("mknod", "--mode=0666", scratch / "tun", "c", "10", "200")
        tool("mount", "--bind", scratch / "tun", "/dev/net/tun")
    shutil.copytree(LAYOUTS["busybox"], scratch / "busybox")
    tool("chmod", "--recursive", "a+rX", scratch / "busybox")
    tool("chown", "--recursive", f"{UID}:{UID}", home)
    return {"HOME": str(home), "XDG_RUNTIME_DIR": str(home / "run")}


class Who:
    """Somebody with a directory: root, or the ordinary user."""

    def __init__(self, name, directory, uid=None, variables=None):
        self.name, self.directory, self.uid = name, directory, uid
        self.variables = {name: value for name, value in os.environ.items() if not name.startswith("XDG_")} | (variables or {})
        directory.mkdir(exist_ok=True)
        self.give(directory)

    def give(self, path):
        if self.uid is not None:
            os.chown(path, self.uid, self.uid)

    def by(self, argv):
        return By(argv, self.uid, self.variables)


class WharfContainers:
    name = "wharf"

    def __init__(self, who, binary, scratch):
        self.who, self.argv = who, [binary, "--root", who.directory / "wharf"]
        context = scratch / "context"
        context.mkdir(exist_ok=True)
        (context / "Dockerfile").write_text("FROM base\n")
        measure(who.by([*self.argv, "build", "--build-context", f"base=oci-layout://{scratch}/busybox", "-t", "localhost/busybox", context]))

    def run(self, *flags):
        return self.who.by([*self.argv, "run", "--rm", *flags, "localhost/busybox", "true"])

    def compose(self, *words):
        return self.who.by([*self.argv, "compose", *words])

    UP = ("up", "-d", "--wait")


class PodmanContainers:
    """With runc, and limits that may be set everywhere: this podman asks for more than a machine may have."""
    name = "podman"

    def __init__(self, who, _binary, scratch):
        self.who = who
        settings, storage = who.directory / "containers.conf", who.directory / "storage.conf"
        settings.write_text('[containers]\ndefault_ulimits = ["nofile=1024:1024", "nproc=4000:4000"]\n[engine]\nruntime = "runc"\n'
                            'cgroup_manager = "cgroupfs"\nevents_logger = "file"\n[network]\nnetwork_backend = "netavark"\n')
        root, run = who.directory / "podman", who.directory / "podman-run"
        storage.write_text(f'[storage]\ndriver = "overlay"\ngraphroot = "{root}"\nrootless_storage_path = "{root}"\nrunroot = "{run}"\n')
        who.variables |= {"CONTAINERS_CONF": str(settings), "CONTAINERS_STORAGE_CONF": str(storage)}
        archive = scratch / "busybox.tar"
        if not archive.exists():
            tool("skopeo", "copy", f"oci:{scratch}/busybox:latest", f"docker-archive:{archive}:localhost/busybox:latest")
        measure(who.by(["podman", "load", "-i", archive]))

    def run(self, *flags):
        return self.who.by(["podman", "run", "--rm", "--pull", "never", *flags, "localhost/busybox", "true"])

    def compose(self, *words):
        return self.who.by(["podman-compose", *words])

    # It has no --wait; without health checks there is nothing more to wait for.
    UP = ("up", "-d")


def peers(kinds, binary, scratch, variables):
    """Those that can run a container here, for root and for the user."""
    able = []
    for who in (Who("root", scratch / "of-root"), Who("user", scratch / "of-user", UID, variables)):
        for kind in kinds:
            try:
                peer = kind(who, binary, scratch)
                measure(peer.run())
            except (SystemExit, OSError) as failure:
                print(f"SKIP: {kind.name}, {who.name}: {str(failure).splitlines()[-1]}", file=sys.stderr, flush=True)
            else:
                able.append(peer)
    return able


def crun(scratch, name, command):
    """How crun runs `command` in the base's files, as root. It refuses where both versions of control groups are mounted: it gets a
    place where one is. `None` where it cannot."""
    bundle = scratch / "crun"
    if not bundle.exists():
        tool("umoci", "unpack", "--image", f"{scratch}/busybox:latest", bundle)
    config = json.loads((bundle / "config.json").read_text())
    config["process"] |= {"terminal": False, "args": command}
    (scratch / f"{name}.json").write_text(json.dumps(config))
    return ["crun", "--cgroup-manager=disabled", "run", "--bundle", bundle, "--config", scratch / f"{name}.json"]


ONE_CGROUP = ["unshare", "--mount", "sh", "-c", 'mount -t cgroup2 none /sys/fs/cgroup && exec "$@"', "sh"]


def bench_run(table, able, scratch, runs):
    limits = {"limit: fork and exec": ["/bin/true"]}
    if shutil.which("crun"):
        command = [*ONE_CGROUP, *crun(scratch, "true", ["true"]), "bench"]
        try:
            measure(command)
            limits["limit: crun run, root, no network, files there already"] = command
        except SystemExit as failure:
            print(f"SKIP: crun: {str(failure).splitlines()[-1]}", file=sys.stderr, flush=True)
    for title, flags in (("run --rm true", ()), ("run --rm --network none true", ("--network", "none"))):
        commands = {f"{peer.name}, {peer.who.name}": peer.run(*flags) for peer in able}
        table.add(title, interleaved(runs, commands | limits), own="wharf, root")


def clock(commands):
    """Runs the commands at once and waits for all of them."""
    start = time.monotonic()
    processes = [subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL) for command in commands]
    if any([process.wait() for process in processes]):
        raise SystemExit(f"{commands[0][0]} failed")
    return Sample(time.monotonic() - start, 0.0, 0)


def bench_ten(table, able, scratch, runs):
    """Ten services of a project that exist and run, and are gone again."""
    project = scratch / "ten"
    project.mkdir()
    services = {f"s{number}": {"image": "localhost/busybox", "command": SERVICE} for number in range(10)}
    # JSON is YAML.
    (project / "compose.yaml").write_text(json.dumps({"services": services}))
    ups, downs, able = {}, {}, list(able)
    for number in range(runs + 1):
        for peer in list(able):
            name = f"{peer.name}, {peer.who.name}"
            try:
                up = measure(peer.compose(*peer.UP), cwd=project)
                down = measure(peer.compose("down"), cwd=project)
            except (SystemExit, OSError) as failure:
                print(f"SKIP: compose by {name}: {str(failure).splitlines()[-1]}", file=sys.stderr, flush=True)
                able.remove(peer)
                continue
            # The first time everybody makes what stays.
            if number:
                ups.setdefault(name, []).append(up)
                downs.setdefault(name, []).append(down)
    limits = {"limit: start ten processes": [clock([["/bin/true"]] * 10) for _ in range(runs)]}
    if shutil.which("crun"):
        commands = [[*ONE_CGROUP, *crun(scratch, "true", ["true"]), f"bench-{number}"] for number in range(10)]
        try:
            limits["limit: crun run of ten at once"] = [clock(commands) for _ in range(runs)]
        except SystemExit as failure:
            print(f"SKIP: crun: {failure}", file=sys.stderr)
    table.add("compose up of ten services", ups | limits, own="wharf, root")
    table.add("compose down of ten services", downs, own="wharf, root")


def bench_containers(table, binary, runs, alone):
    # Short: podman waits for ever, or for 20 s, where the paths of its sockets are too long for the kernel. The ordinary user gets to it.
    place = Path(tempfile.mkdtemp(prefix="wb-", dir=os.environ.get("TMPDIR", "/var/tmp")))
    place.chmod(0o755)
    program = place / "wharf"
    shutil.copy2(binary, program)
    kinds = [WharfContainers]
    if alone:
        pass
    elif all(map(shutil.which, ("podman", "podman-compose", "runc", "skopeo"))):
        kinds.append(PodmanContainers)
    else:
        print("SKIP: podman, podman-compose, runc or skopeo is not installed; wharf runs containers alone", file=sys.stderr)
    try:
        variables = part(place)
        able = peers(kinds, program, place, variables)
        bench_run(table, able, place, max(20, runs))
        bench_ten(table, able, place, runs)
    finally:
        # What keeps a user's namespaces for podman.
        for path in place.rglob("pause.pid"):
            subprocess.run(["kill", "-9", path.read_text()], check=False)
        for line in reversed(Path("/proc/self/mountinfo").read_text().splitlines()):
            if line.split()[4].startswith(str(place)):
                subprocess.run(["umount", line.split()[4]], capture_output=True, check=False)
        shutil.rmtree(place, ignore_errors=True)
