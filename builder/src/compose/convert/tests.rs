//! Services as text, and what their containers are asked for.

use expect_test::{Expect, expect};
use wharf_frontend::compose::Environment;

use super::super::plan::tests::project;
use super::*;

fn origin(text: &'static str) -> Origin {
    let environment = Environment::from([("TOKEN".to_owned(), "secret".to_owned())]);
    let (directory, files) = ("/p".to_owned(), vec!["/p/compose.yaml".to_owned()]);
    Origin { project: project(text), environment, directory, files }
}

/// What is asked for beyond what an empty service asks for, a field a line.
fn asked(text: &'static str) -> String {
    let which = Which { service: "a", number: 1, name: "p-a-1", hash: "h", image: "i", one_off: false };
    let of_service = |name: &str| Ok(format!("p-{name}-1"));
    let show = |text| {
        let origin = origin(text);
        match ask(&origin, &which, &of_service) {
            Ok(mut ask) => {
                ask.labels.retain(|name, _| !name.starts_with("com.docker.compose."));
                format!("{ask:#?}")
            }
            Err(failure) => failure.render(false),
        }
    };
    let empty = show("services: {a: {image: i, network_mode: none}}");
    let known: Vec<&str> = empty.lines().collect();
    let shown = show(text);
    let new: Vec<&str> = shown.lines().filter(|line| !known.contains(line)).map(str::trim).collect();
    new.join(" ")
}

#[track_caller]
fn check(text: &'static str, expected: &Expect) {
    expected.assert_eq(&asked(text));
}

#[test]
fn processes() {
    check(
        "services: {a: {image: i, network_mode: none, command: [x, y], entrypoint: [], environment: {A: 1, UNSET: }, user: me, working_dir: /w, tty: true, stdin_open: true, init: true, group_add: [g]}}",
        &expect![[
            r#"entrypoint: Some( [], command: Some( [ "x", "y", ], env: [ ( "A", Some( "1", ), ), ], working_dir: Some( "/w", user: Some( "me", group_add: [ "g", ], tty: true, open_stdin: true, init: true,"#
        ]],
    );
    check(
        "services: {a: {image: i, network_mode: none, hostname: h, domainname: d, stop_signal: SIGINT, stop_grace_period: 1m, labels: {l: 1}, annotations: {n: 2}}}",
        &expect![[
            r#"hostname: Some( "h", domainname: Some( "d", labels: { "l": "1", annotations: { "n": "2", stop_signal: Some( "SIGINT", stop_timeout: Some( After( 60s, ),"#
        ]],
    );
}

#[test]
fn restarts() {
    check("services: {a: {image: i, network_mode: none, restart: always}}", &expect!["restart: Always,"]);
    check(
        "services: {a: {image: i, network_mode: none, restart: 'on-failure:3'}}",
        &expect!["restart: OnFailure { times: Some( 3, ),"],
    );
    check(
        "services: {a: {image: i, network_mode: none, restart: unless-stopped}}",
        &expect!["restart: UnlessStopped,"],
    );
    check("services: {a: {image: i, network_mode: none, restart: 'no'}}", &expect![[r#""#]]);
    let deploy = "services: {a: {image: i, network_mode: none, deploy: {restart_policy: {condition: on-failure, max_attempts: 2}}}}";
    check(deploy, &expect!["restart: OnFailure { times: Some( 2, ),"]);
    let both = "services: {a: {image: i, network_mode: none, restart: always, deploy: {restart_policy: {condition: none}}}}";
    check(both, &expect![[r#""#]]);
    check(
        "services: {a: {image: i, network_mode: none, deploy: {restart_policy: {}}}}",
        &expect!["restart: Always,"],
    );
}

#[test]
fn health_checks() {
    check(
        "services: {a: {image: i, network_mode: none, healthcheck: {test: curl x, interval: 2s, retries: 5}}}",
        &expect![[
            r#"health: Given { test: Some( [ "CMD-SHELL", "curl x", ], ), interval: Some( 2s, ), timeout: None, start_period: None, start_interval: None, retries: Some( 5, ),"#
        ]],
    );
    check(
        "services: {a: {image: i, network_mode: none, healthcheck: {disable: true}}}",
        &expect!["health: Disabled,"],
    );
    check(
        "services: {a: {image: i, network_mode: none, healthcheck: {test: [NONE]}}}",
        &expect!["health: Disabled,"],
    );
}

#[test]
fn logs() {
    check(
        "services: {a: {image: i, network_mode: none, logging: {driver: local, options: {max-size: 1m, max-file: '3'}}}}",
        &expect!["max_size: Some( 1048576, ), max_file: 3,"],
    );
    check("services: {a: {image: i, network_mode: none, logging: {driver: none}}}", &expect!["none: true,"]);
    check(
        "services: {a: {image: i, network_mode: none, logging: {options: {max-size: big}}}}",
        &expect!["ERROR: services.a.logging: max-size big is no size"],
    );
    let other = origin(
        "services: {a: {image: i, logging: {driver: syslog}}, b: {image: i, logging: {options: {tag: x}}}}",
    );
    expect![[r#"
        logging.driver syslog is not acted on: logs are files here, and `logs` shows them
        logging.options.tag is not acted on: logs are files, with max-size and max-file"#]]
    .assert_eq(&other.project.services.values().flat_map(logging_warnings).collect::<Vec<_>>().join("\n"));
}

#[test]
fn rights_and_resources() {
    check(
        "services: {a: {image: i, network_mode: none, privileged: true, cap_add: [net_admin, ALL], cap_drop: [CAP_CHOWN], read_only: true, security_opt: ['no-new-privileges:true', seccomp=unconfined, label=disable], devices: ['/dev/x:/dev/y:r'], sysctls: {a.b: 1}}}",
        &expect![[
            r#"privileged: true, cap_add: [ "CAP_NET_ADMIN", "ALL", ], cap_drop: [ "CAP_CHOWN", ], no_new_privileges: true, seccomp_unconfined: true, read_only: true, devices: [ ( "/dev/x", "/dev/y", "r", ), ], sysctls: { "a.b": "1", },"#
        ]],
    );
    check(
        "services: {a: {image: i, network_mode: none, security_opt: [seccomp=mine.json]}}",
        &expect![
            "ERROR: services.a.security_opt: profiles of one's own are not supported hint: seccomp=unconfined is, and without it there is a filter like Docker's"
        ],
    );
    check(
        "services: {a: {image: i, network_mode: none, mem_limit: 64m, cpus: 1.5, pids_limit: 10, shm_size: 1m, ulimits: {nofile: 10, nproc: {soft: 1, hard: 2}}, cpuset: '0', memswap_limit: -1, oom_score_adj: 5}}",
        &expect![[
            r#"memory: Some( 67108864, ), memory_swap: Some( -1, ), nano_cpus: Some( 1500000000, ), cpuset_cpus: Some( "0", ), pids: Some( 10, ), shm_size: Some( 1048576, ), ulimits: [ ( "nofile", 10, 10, ), ( "nproc", 1, 2, ), ], oom_score_adj: Some( 5, ),"#
        ]],
    );
    check(
        "services: {a: {image: i, network_mode: none, deploy: {resources: {limits: {memory: 32m, cpus: '0.5', pids: 7}}}}}",
        &expect!["memory: Some( 33554432, ), nano_cpus: Some( 500000000, ), pids: Some( 7, ),"],
    );
}

#[test]
fn mounts() {
    check(
        "
services: {a: {image: i, network_mode: none, tmpfs: ['/t:size=1m'], volumes: ['./x:/b:ro', 'v:/v', /anonymous, {type: tmpfs, target: /m, tmpfs: {size: 1k, mode: 0700}}, {type: volume, source: w, target: /w, volume: {subpath: s, nocopy: true}}]}}
volumes: {v: , w: {name: other}}
",
        &expect![[r#"mounts: [ MountAsk { kind: Bind { source: "/p/x", create: true, propagation: None, non_recursive: false, }, target: "/b", read_only: true, }, MountAsk { kind: Volume { name: Some( "p_v", ), subpath: None, no_copy: false, driver: None, options: {}, labels: {}, }, target: "/v", read_only: false, }, MountAsk { kind: Volume { name: None, subpath: None, no_copy: false, driver: None, options: {}, labels: {}, }, target: "/anonymous", read_only: false, }, MountAsk { kind: Tmpfs { size: Some( 1024, ), mode: Some( 448, ), options: [], }, target: "/m", read_only: false, }, MountAsk { kind: Volume { name: Some( "other", ), subpath: Some( "s", ), no_copy: true, driver: None, options: {}, labels: {}, }, target: "/w", read_only: false, }, MountAsk { kind: Tmpfs { size: Some( 1048576, ), mode: None, options: [], }, target: "/t", read_only: false, }, ],"#]],
    );
    check(
        "services: {a: {image: i, network_mode: none, volumes_from: ['b:ro', 'container:c']}, b: {image: i}}",
        &expect![[r#"volumes_from: [ ( "p-b-1", true, ), ( "c", false, ), ],"#]],
    );
}

#[test]
fn networks() {
    check(
        "
services:
  a: {image: i, mac_address: '02:00:00:00:00:01', networks: {first: {aliases: [x]}, out: {gw_priority: 1, ipv4_address: 10.1.0.9}}}
  b: {image: i, links: ['a:called'], network_mode: none}
networks: {first: , out: {name: there, external: true}}
",
        &expect![[r#"network: Networks( [ Attachment { network: "there", aliases: [ "a", "called", ], ipv4: Some( 10.1.0.9, ), ipv6: None, mac: Some( "02:00:00:00:00:01", ), }, Attachment { network: "p_first", aliases: [ "a", "called", "x", ], ipv4: None, ipv6: None, mac: None, }, ],"#]],
    );
    check(
        "services: {a: {image: i}}",
        &expect![[
            r#"network: Networks( [ Attachment { network: "p_default", aliases: [ "a", ], ipv4: None, ipv6: None, mac: None, }, ],"#
        ]],
    );
    check(
        "services: {a: {image: i, network_mode: host, pid: host, ipc: 'service:b', uts: host}, b: {image: i}}",
        &expect![[r#"network: Host, pid: Host, ipc: Container( "p-b-1", uts: Host,"#]],
    );
    check(
        "services: {a: {image: i, network_mode: 'service:b'}, b: {image: i}}",
        &expect![[r#"network: Container( "p-b-1","#]],
    );
    check(
        "services: {a: {image: i, network_mode: 'container:c', pid: 'container:c'}}",
        &expect![[r#"network: Container( "c", pid: Container( "c","#]],
    );
    check(
        "services: {a: {image: i, network_mode: none, ports: ['80', '127.0.0.1:8080:80/udp', '9000-9001:90'], expose: ['5'], dns: 1.1.1.1, dns_search: d, dns_opt: [ndots:1], extra_hosts: ['h=host-gateway']}}",
        &expect![[
            r#"ports: [ PortUse { container: 80, protocol: Tcp, address: None, host: 0, host_last: 0, }, PortUse { container: 80, protocol: Udp, address: Some( 127.0.0.1, ), host: 8080, host_last: 8080, }, PortUse { container: 90, protocol: Tcp, address: None, host: 9000, host_last: 9001, }, ], expose: [ "5", ], extra_hosts: [ ( "h", "host-gateway", ), ], dns: [ 1.1.1.1, ], dns_search: [ "d", ], dns_options: [ "ndots:1", ],"#
        ]],
    );
    check(
        "services: {a: {image: i, network_mode: none, dns: nowhere}}",
        &expect!["ERROR: services.a.dns: nowhere is no address"],
    );
}

#[test]
fn secrets_and_configs() {
    let of = |text| {
        let origin = origin(text);
        contents(&origin, "a").map_or_else(|failure| failure.render(false), |it| format!("{it:?}"))
    };
    let text = "
services: {a: {image: i, network_mode: none, secrets: [t, {source: t, target: other, uid: '5', gid: '6', mode: 0400}], configs: [c]}}
secrets: {t: {environment: TOKEN}}
configs: {c: {content: hello}}
";
    expect!["[/run/secrets/t: 6 bytes of 0:0, 444, /run/secrets/other: 6 bytes of 5:6, 400, /c: 5 bytes of 0:0, 444]"].assert_eq(&of(text));
    check(
        text,
        &expect![
            "files: [ /run/secrets/t: 6 bytes of 0:0, 444, /run/secrets/other: 6 bytes of 5:6, 400, /c: 5 bytes of 0:0, 444, ],"
        ],
    );
    let text = "{services: {a: {image: i, secrets: [t]}}, secrets: {t: {environment: NONE}}}";
    expect![[r#"
        ERROR: secrets.t comes from the variable NONE, which is not set
        hint: set it in the environment or in `.env`"#]]
    .assert_eq(&of(text));
    let text = "{services: {a: {image: i, secrets: [t]}}, secrets: {t: {external: true}}}";
    expect![[r#"
        ERROR: secrets.t is external, and there is no store of secrets and configs here
        hint: give it a file or a variable of the environment"#]]
    .assert_eq(&of(text));
    let text = "{services: {a: {image: i, network_mode: none, secrets: [t]}}, secrets: {t: {file: /nowhere/at/all}}}";
    check(
        text,
        &expect![
            "ERROR: cannot read secrets.t of services.a: `/nowhere/at/all`: No such file or directory (os error 2) hint: make the file, or name another one in the compose file"
        ],
    );
}

#[test]
fn a_hash_follows_what_the_container_gets() {
    let of = |text| hash(&origin(text), "a").unwrap();
    let plain = of("services: {a: {image: i, configs: [c]}}\nconfigs: {c: {content: one}}");
    assert_eq!(plain, of("services: {a: {image: i, configs: [c], scale: 2}}\nconfigs: {c: {content: one}}"));
    assert_ne!(plain, of("services: {a: {image: i, configs: [c]}}\nconfigs: {c: {content: two}}"));
    let alone = of("services: {a: {image: i}, b: {image: i, links: [a]}}");
    assert_eq!(alone, origin("services: {a: {image: i}}").project.services["a"].config_hash());
    assert_ne!(alone, of("services: {a: {image: i}, b: {image: i, links: ['a:x']}}"));
}
