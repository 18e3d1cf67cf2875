//! A layer that is larger than the memory it may take, on every way in and out.

use std::process::Command;

use crate::harness::{Outcome, Registry, Wharf, busybox_layout, have};

/// No way takes more, whatever the size of the layer.
const PEAK_KIB_MAX: u64 = 150 << 10;

/// Runs a command and says at the end how much memory it, or a process that it waited for, took at most.
const MEASURE: &str = "import resource, subprocess, sys\n\
    code = subprocess.call(sys.argv[1:])\n\
    print('peak', resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, file=sys.stderr)\n\
    sys.exit(code)\n";

#[track_caller]
fn check(what: &str, command: &Command) {
    let mut measured = Command::new("python3");
    measured.args(["-c", MEASURE]).arg(command.get_program()).args(command.get_args());
    measured.current_dir(command.get_current_dir().unwrap());
    let outcome = Outcome::of(measured).success();
    let last = outcome.stderr.lines().last().and_then(|line| line.strip_prefix("peak ")).unwrap();
    let peak: u64 = last.parse().unwrap();
    println!("{what}: {} MiB", peak >> 10);
    assert!(peak < PEAK_KIB_MAX, "{what}: {} MiB", peak >> 10);
}

#[test]
fn no_way_holds_a_layer_in_memory() {
    let (Some(_), Some(wharf), Some(registry)) = (busybox_layout(), Wharf::new(), Registry::start()) else {
        return;
    };
    if !have(&["python3"]) {
        return;
    }
    let one = "head -c 200000000 /dev/urandom >/big";
    let many = "mkdir /many; for i in $(seq 4000); do head -c 50000 /dev/urandom >/many/$i; done";
    let moved = ["pull", "copy", "load", "save"];
    for (shape, step, forms, moved) in
        [("one", one, &["gzip", "zstd"][..], &moved[..]), ("many", many, &["gzip"], &["pull"])]
    {
        wharf.dockerfile(&format!("FROM busybox\nRUN {step}\n"));
        let build = |store: &str, output: &str| wharf.build_command(store, &["-o", output]);
        check(&format!("{shape}: build"), &build("store", "type=cacheonly"));
        let dest = wharf.path("out").display().to_string();
        for form in forms {
            let name = format!("{}/{shape}-{form}:v1", registry.address);
            let named = format!("name={name},compression={form}");
            check(&format!("{shape}: push, {form}"), &build("store", &format!("type=registry,{named}")));
            for kind in ["oci", "docker"] {
                let output = format!("type={kind},dest={dest}-{kind},{named}");
                check(&format!("{shape}: {kind} archive, {form}"), &build("store", &output));
            }
            for what in moved {
                let copied = [format!("docker://{name}"), format!("docker://{name}-copied")];
                let arguments: &[&str] = match *what {
                    "pull" => &["pull", &name],
                    "copy" => &["copy", &copied[0], &copied[1]],
                    "load" => &["load", "-i", &format!("{dest}-docker")],
                    _ => &["save", "-o", &format!("{dest}-saved"), &name],
                };
                check(&format!("{shape}: {what}, {form}"), &wharf.command("other", arguments));
            }
            wharf.dockerfile(&format!("FROM {name}\nRUN true\n"));
            check(&format!("{shape}: unpack, {form}"), &build(&format!("unpacked-{form}"), "type=cacheonly"));
            wharf.dockerfile(&format!("FROM busybox\nRUN {step}\n"));
        }
        for kind in ["tar", "local"] {
            check(&format!("{shape}: {kind}"), &build("store", &format!("type={kind},dest={dest}-{kind}")));
        }
        let import = wharf.command("other", &["import", &format!("{dest}-tar"), "imported:v1"]);
        check(&format!("{shape}: import"), &import);
    }
}
