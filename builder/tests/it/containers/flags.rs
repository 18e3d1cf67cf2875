//! What each flag of `run` and `create` changes: inside of the container, or in what `inspect` says of it.

use std::fs;

use super::World;

/// Flags, a script in the container, and what it prints.
const INSIDE: &[(&[&str], &str, &str)] = &[
    (&[], "pwd; echo $OF_IMAGE; id -u", "/srv\nyes\n0"),
    (&["-e", "A=b", "-e", "CHANGED=yes"], "echo $A $CHANGED $OF_IMAGE", "b yes yes"),
    (&["--env-file", "env"], "echo $ONE,$TWO,$PASSED", "1,two words,from outside"),
    (&["-e", "PASSED"], "echo $PASSED", "from outside"),
    (&["-e", "OF_IMAGE=", "-e", "ABSENT"], "env | grep -c -e ABSENT; echo \"<$OF_IMAGE>\"", "0\n<>"),
    (&["-w", "/tmp"], "pwd", "/tmp"),
    (&["-w", "/made/here"], "pwd", "/made/here"),
    (&["-u", "1000:1001"], "id -u; id -g", "1000\n1001"),
    (&["-u", "nobody"], "id -un", "nobody"),
    (&["-u", "1000", "--group-add", "2000"], "id -G | tr ' ' '\\n' | sort -n | tail -1", "2000"),
    (&["-h", "named"], "hostname", "named"),
    (
        &["--hostname", "named", "--domainname", "example.org"],
        "cat /proc/sys/kernel/domainname",
        "example.org",
    ),
    (&["--add-host", "there:10.1.2.3"], "grep there /etc/hosts | tr '\\t' ' '", "10.1.2.3 there"),
    (
        &["--dns", "10.9.8.7", "--dns-search", "example.org", "--dns-option", "ndots:3", "--network", "none"],
        "grep -c -e 'nameserver 10.9.8.7' -e 'search example.org' -e 'ndots:3' /etc/resolv.conf",
        "3",
    ),
    (&["--read-only"], "touch /x 2>/dev/null || echo refused", "refused"),
    (&["--read-only", "--tmpfs", "/run"], "touch /run/x && echo written", "written"),
    (&["--tmpfs", "/mem:size=64k"], "df -k /mem | tail -1 | awk '{print $2}'", "64"),
    (&["--shm-size", "1m"], "df -k /dev/shm | tail -1 | awk '{print $2}'", "1024"),
    (&["--cap-drop", "ALL"], "grep CapEff /proc/self/status | cut -f2", "0000000000000000"),
    (
        &["--cap-drop", "ALL", "--cap-add", "CHOWN"],
        "grep CapEff /proc/self/status | cut -f2",
        "0000000000000001",
    ),
    (&["--cap-add", "net_admin", "--network", "none"], "ip link set lo down && echo done", "done"),
    (&["--security-opt", "no-new-privileges"], "grep NoNewPrivs /proc/self/status | cut -f2", "1"),
    (&["--security-opt", "seccomp=unconfined"], "grep Seccomp: /proc/self/status | cut -f2", "0"),
    (
        &["--privileged"],
        "grep Seccomp: /proc/self/status | cut -f2; mkdir /m && mount -t tmpfs none /m && echo mounted",
        "0\nmounted",
    ),
    (
        &["--device", "/dev/null:/dev/other"],
        "echo x >/dev/other && test -c /dev/other && echo device",
        "device",
    ),
    (&["--sysctl", "net.ipv4.ip_default_ttl=99"], "cat /proc/sys/net/ipv4/ip_default_ttl", "99"),
    (&["--ulimit", "nofile=77:88"], "ulimit -n; ulimit -Hn", "77\n88"),
    (&["--oom-score-adj", "500"], "cat /proc/self/oom_score_adj", "500"),
    (&["--network", "none"], "ls /sys/class/net", "lo"),
    (&["--entrypoint", "/bin/echo", "--label", "x=y"], "", "-c"),
    (
        &["--ipc", "host", "-e", "HOST_IPC"],
        "test \"$(readlink /proc/self/ns/ipc)\" = \"$HOST_IPC\" && echo same",
        "same",
    ),
    (&["-v", "/tmp/../srv/gone:/there:ro"], "touch /there/x 2>/dev/null || echo refused", "refused"),
    (&["-v", "seeded:/vol"], "cat /vol/file", "seed"),
    (&["--mount", "type=tmpfs,target=/mem,tmpfs-size=1m"], "df -k /mem | tail -1 | awk '{print $2}'", "1024"),
    (&["--init"], "echo runs", "runs"),
    (&["--platform", "linux"], "echo runs", "runs"),
    (&["--uts", "host"], "test \"$(hostname)\" != \"\" && echo named", "named"),
];

#[test]
fn flags_change_what_is_inside() {
    let Some(world) = World::new() else { return };
    fs::write(world.wharf.path("env"), "# a comment\nONE=1\n\nTWO=two words\nPASSED\n").unwrap();
    for (flags, script, expected) in INSIDE {
        let mut arguments = vec!["run", "--rm"];
        arguments.extend(*flags);
        // The default network is another test's affair, where the row does not say one.
        if !flags.contains(&"--network") && !flags.contains(&"--add-host") {
            arguments.extend(["--network", "none"]);
        }
        arguments.push("app");
        match flags.contains(&"--entrypoint") {
            true => arguments.push("-c"),
            false => arguments.extend(["sh", "-c", script]),
        }
        let mut command = world.command(&arguments);
        command.env("HOST_IPC", fs::read_link("/proc/self/ns/ipc").unwrap());
        let outcome = crate::harness::Outcome::of({
            command.env("PASSED", "from outside").env_remove("ABSENT");
            command
        });
        assert_eq!(outcome.success().text().trim_end(), *expected, "{flags:?}");
    }
    let _ = fs::remove_dir("/srv/gone");
}

/// Flags, a template of `inspect`, and what it gives.
const INSPECTED: &[(&[&str], &str, &str)] = &[
    (
        &[],
        "{{.Path}} {{json .Args}} {{.State.Status}} {{.Config.WorkingDir}}",
        "echo [\"of the image\"] created /srv",
    ),
    (&[], "{{json .Config.ExposedPorts}}", "{\"53/udp\":{},\"80/tcp\":{}}"),
    (&["--name", "named"], "{{.Name}}", "/named"),
    (&["-i", "-t"], "{{.Config.Tty}} {{.Config.OpenStdin}}", "true true"),
    (&["-l", "a=b", "-l", "bare"], "{{json .Config.Labels}}", "{\"a\":\"b\",\"bare\":\"\",\"of\":\"image\"}"),
    (&["--label-file", "labels"], "{{index .Config.Labels \"x\"}} {{index .Config.Labels \"of\"}}", "y file"),
    (&["--annotation", "a=b"], "{{json .HostConfig.Annotations}}", "{\"a\":\"b\"}"),
    (
        &["--restart", "on-failure:3"],
        "{{json .HostConfig.RestartPolicy}}",
        "{\"MaximumRetryCount\":3,\"Name\":\"on-failure\"}",
    ),
    (&["--restart", "always"], "{{.HostConfig.RestartPolicy.Name}}", "always"),
    (&["--rm"], "{{.HostConfig.AutoRemove}}", "true"),
    (
        &["--stop-signal", "USR1", "--stop-timeout", "3"],
        "{{.Config.StopSignal}} {{.Config.StopTimeout}}",
        "SIGUSR1 3",
    ),
    (&["--stop-timeout", "-1"], "{{.Config.StopTimeout}}", "-1"),
    (
        &[
            "--health-cmd",
            "true",
            "--health-interval",
            "2s",
            "--health-timeout",
            "1s",
            "--health-retries",
            "5",
            "--health-start-period",
            "4s",
            "--health-start-interval",
            "500ms",
        ],
        "{{json .Config.Healthcheck}}",
        "{\"Interval\":2000000000,\"Retries\":5,\"StartInterval\":500000000,\"StartPeriod\":4000000000,\"Test\":[\"CMD-SHELL\",\"true\"],\"Timeout\":1000000000}",
    ),
    (&["--no-healthcheck"], "{{len .Config.Env}}", "3"),
    (&["--log-driver", "none"], "{{.HostConfig.LogConfig.Type}}", "none"),
    (
        &["--log-opt", "max-size=10k", "--log-opt", "max-file=2"],
        "{{json .HostConfig.LogConfig.Config}}",
        "{\"max-file\":\"2\",\"max-size\":\"10240\"}",
    ),
    (
        &["-p", "8080:80"],
        "{{json .HostConfig.PortBindings}}",
        "{\"80/tcp\":[{\"HostIp\":\"\",\"HostPort\":\"8080\"}]}",
    ),
    (
        &["-p", "127.0.0.1::53/udp"],
        "{{json .HostConfig.PortBindings}}",
        "{\"53/udp\":[{\"HostIp\":\"127.0.0.1\",\"HostPort\":\"\"}]}",
    ),
    (&["-P"], "{{len .HostConfig.PortBindings}}", "2"),
    (&["--expose", "9000-9001"], "{{len .Config.ExposedPorts}}", "4"),
    (&["--network", "none"], "{{.HostConfig.NetworkMode}}", "none"),
    (&["--network", "host"], "{{.HostConfig.NetworkMode}}", "host"),
    (
        &["--network", "one", "--network-alias", "x", "--ip", "10.77.0.9"],
        "{{.HostConfig.NetworkMode}} {{json .NetworkSettings.Networks.one.Aliases}} {{.NetworkSettings.Networks.one.IPAMConfig.IPv4Address}}",
        "one [\"x\"] 10.77.0.9",
    ),
    (&["--network", "one", "--network", "two"], "{{len .NetworkSettings.Networks}}", "2"),
    (&["--mac-address", "02:00:00:00:00:07"], "{{.HostConfig.NetworkMode}}", "bridge"),
    (
        &["-m", "64m", "--memory-swap", "-1"],
        "{{.HostConfig.Memory}} {{.HostConfig.MemorySwap}}",
        "67108864 -1",
    ),
    (
        &["--cpus", "1.5", "--cpu-shares", "512", "--cpuset-cpus", "0"],
        "{{.HostConfig.NanoCpus}} {{.HostConfig.CpuShares}} {{.HostConfig.CpusetCpus}}",
        "1500000000 512 0",
    ),
    (&["--pids-limit", "20"], "{{.HostConfig.PidsLimit}}", "20"),
    (&["--cgroup-parent", "some"], "{{.HostConfig.CgroupParent}}", "some"),
    (
        &["--security-opt", "no-new-privileges", "--cap-add", "sys_ptrace", "--cap-drop", "CAP_CHOWN"],
        "{{json .HostConfig.SecurityOpt}} {{json .HostConfig.CapAdd}} {{json .HostConfig.CapDrop}}",
        "[\"no-new-privileges\"] [\"CAP_SYS_PTRACE\"] [\"CAP_CHOWN\"]",
    ),
    (
        &["--ulimit", "nofile=1:2"],
        "{{json .HostConfig.Ulimits}}",
        "[{\"Hard\":2,\"Name\":\"nofile\",\"Soft\":1}]",
    ),
    (
        &["--device", "/dev/null:r"],
        "{{json .HostConfig.Devices}}",
        "[{\"CgroupPermissions\":\"r\",\"PathInContainer\":\"/dev/null\",\"PathOnHost\":\"/dev/null\"}]",
    ),
    (&["--sysctl", "net.core.somaxconn=9"], "{{json .HostConfig.Sysctls}}", "{\"net.core.somaxconn\":\"9\"}"),
    (&["-v", "/etc:/host:ro"], "{{json .HostConfig.Binds}}", "[\"/etc:/host:ro\"]"),
    (&["--tmpfs", "/x"], "{{len .HostConfig.Tmpfs}}", "1"),
    (&["--entrypoint", "cat"], "{{.Path}} {{json .Args}} {{json .Config.Cmd}}", "cat [] null"),
    (&["--add-host", "a:1.2.3.4"], "{{json .HostConfig.ExtraHosts}}", "[\"a:1.2.3.4\"]"),
    (&["--ipc", "host", "--uts", "host"], "{{.HostConfig.IpcMode}} {{.HostConfig.UTSMode}}", "host host"),
    (&["--volumes-from", "source:ro"], "{{range .Mounts}}{{.Destination}} {{.RW}}{{end}}", "/shared false"),
];

#[test]
fn flags_are_seen_in_inspect() {
    let Some(world) = World::new() else { return };
    fs::write(world.wharf.path("labels"), "# labels\nx=y\nof=file\n").unwrap();
    world.run(&["create", "--name", "source", "-v", "/etc:/shared", "app"]).success();
    for (flags, template, expected) in INSPECTED {
        let id = world.text(&[&["create"], *flags, &["app"]].concat());
        assert_eq!(world.field(&id, template), *expected, "{flags:?}");
        world.run(&["rm", "-v", &id]).success();
    }
}

#[test]
fn where_the_image_comes_from_and_where_the_identifier_goes() {
    let Some(world) = World::new() else { return };
    let file = world.wharf.path("cid").display().to_string();
    let id = world.text(&["create", "--cidfile", &file, "app"]);
    assert_eq!(fs::read_to_string(&file).unwrap(), id);
    world.run(&["create", "--cidfile", &file, "app"]).fails_with(125, &["cidfile", "there is a file"]);
    world.run(&["create", "--pull", "never", "absent"]).fails_with(125, &["absent", "wharf images"]);
    // A port of this machine where nobody is.
    let name = "127.0.0.1:1/absent";
    world.run(&["run", name]).fails_with(125, &["pulling", "127.0.0.1:1/absent"]);
    world.run(&["run", "--pull", "always", name]).fails_with(125, &["pulling"]);
    assert_eq!(world.text(&["run", "--rm", "--network", "none", "--pull", "missing", "app"]), "of the image");
}
