//! What `run` asks of a spec: privileges, devices, limits, file systems of its own, sysctls.

use std::path::Path;

use serde_json::{Value, json};
use wharf_runtime::{Cancel, Spec, Stdio, host_device, host_devices, insecure_spec};

use crate::world::{Changes, OK, World, shell, words};
use crate::{everywhere, world};

/// Runs it; its status and output, or the words of the error.
fn run(world: &World, spec: &Spec) -> (String, String) {
    let cancel = Cancel::new().unwrap();
    let mut printed = Vec::new();
    let mut sink = |_, chunk: &[u8]| printed.extend_from_slice(chunk);
    let started = world.start(spec, Stdio::Captured(&mut sink), None, &cancel);
    let status = match started.and_then(|mut container| container.process.wait()) {
        Ok(status) => format!("{status:?}"),
        Err(error) => words(&error),
    };
    (status, String::from_utf8_lossy(&printed).into_owned())
}

#[test]
fn what_is_asked_for_is_given() {
    everywhere("specs::what_is_asked_for_is_given", || {
        let Some(world) = World::new() else { return };
        let network = ("/linux/namespaces/-", json!({"type": "network"}));
        let sysctl = |value: Value| ("/linux/sysctl", value);
        let device = |name: &str, target: &str| {
            let device = host_device(Path::new(name), Path::new(target)).unwrap();
            ("/linux/devices", json!([serde_json::to_value(device).unwrap()]))
        };
        let tmpfs = |options: Value| {
            (
                "/mounts/-",
                json!({"destination": "/t", "type": "tmpfs", "source": "tmpfs", "options": options}),
            )
        };
        let cases: Vec<(&str, Changes<'_>, &str)> = vec![
            (
                "touch /x 2>/dev/null || echo ro; touch /t/x && echo rw",
                vec![("/root", json!({"path": "/", "readonly": true})), tmpfs(json!(["rw"]))],
                "ro\nrw\n",
            ),
            (
                "df -k /t | grep -c ' 64 '; stat -c %a /t; cp /bin/busybox /t/true 2>/dev/null; /t/true 2>/dev/null || echo noexec",
                vec![tmpfs(json!(["noexec", "nosuid", "size=64k", "mode=1770"]))],
                "1\n1770\nnoexec\n",
            ),
            (
                "cat /proc/sys/kernel/shmmax /proc/sys/net/ipv4/ip_unprivileged_port_start",
                vec![
                    network.clone(),
                    sysctl(json!({"kernel.shmmax": "4096", "net.ipv4.ip_unprivileged_port_start": "80"})),
                ],
                "4096\n80\n",
            ),
            (
                "ulimit -n; ulimit -c",
                vec![(
                    "/process/rlimits",
                    json!([
                        {"type": "RLIMIT_NOFILE", "soft": 77, "hard": 99}, {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
                    ]),
                )],
                "77\n0\n",
            ),
            ("cat /proc/self/oom_score_adj", vec![("/process/oomScoreAdj", json!(700))], "700\n"),
            (
                "stat -c %t:%T /dev/nothing; echo x >/dev/nothing && echo fine",
                vec![device("/dev/null", "/dev/nothing")],
                "1:3\nfine\n",
            ),
            (
                "stat -c %t:%T /dev/deep/zero; head -c 2 /dev/deep/zero | wc -c",
                vec![device("/dev/zero", "/dev/deep/zero")],
                "1:5\n2\n",
            ),
        ];
        for (script, changes, expected) in cases {
            let outcome = run(&world, &shell(script, &changes));
            assert_eq!(outcome, (format!("{OK:?}"), expected.to_owned()), "{script}");
        }
        let shm = json!({"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["mode=1777", "size=1m"]});
        let mut spec = shell("df -k /dev/shm | grep -c ' 1024 '", &[]);
        for mount in spec.mounts_mut().iter_mut().flatten() {
            if mount.destination() == Path::new("/dev/shm") {
                *mount = serde_json::from_value(shm.clone()).unwrap();
            }
        }
        assert_eq!(run(&world, &spec), (format!("{OK:?}"), "1\n".to_owned()));
    });
}

#[test]
fn a_device_that_is_not_there_is_an_error() {
    everywhere("specs::a_device_that_is_not_there_is_an_error", || {
        if !wharf_runtime::sandbox::in_user_namespace() {
            return;
        }
        let Some(world) = World::new() else { return };
        let device = json!([{"path": "/dev/none", "type": "c", "major": 4000, "minor": 7}]);
        let (status, _) = run(&world, &shell("true", &[("/linux/devices", device)]));
        assert!(status.starts_with("cannot bind /dev/none of this machine"), "{status}");
    });
}

#[test]
fn a_privileged_container_has_everything() {
    everywhere("specs::a_privileged_container_has_everything", || {
        let Some(world) = World::new() else { return };
        let mut spec = insecure_spec();
        let script = "mount -t tmpfs x /tmp && echo mounted; stat -c %F /dev/null; grep -c Seccomp:.*0 /proc/self/status; test -w /proc/sys && echo writable";
        let process = spec.process_mut().as_mut().unwrap();
        process.set_args(Some(["/bin/sh", "-c", script].map(str::to_owned).to_vec()));
        // The emulation of ids needs a filter of its own.
        let filters = if world::ownership().is_some() { "0" } else { "1" };
        let mut devices = host_devices().unwrap();
        if wharf_runtime::sandbox::in_user_namespace() {
            devices.truncate(20);
        }
        spec.linux_mut().as_mut().unwrap().set_devices(Some(devices));
        let (status, printed) = run(&world, &spec);
        assert_eq!(printed, format!("mounted\ncharacter special file\n{filters}\nwritable\n"), "{status}");
        assert_eq!(status, format!("{OK:?}"));
    });
}

#[test]
fn a_user_namespace_is_entered_before_there_are_threads() {
    use std::os::fd::AsFd as _;
    let own = wharf_runtime::sandbox::user_namespace().unwrap();
    assert!(wharf_runtime::sandbox::join(own.as_fd()).is_err());
}
