//! Measures the time from start to exit of `/bin/true` in a container: `true [ROOT [RUNS [MIB]]]`.
//!
//! `ROOT` is a directory with `/bin/true` in it, `MIB` how much memory the calling process holds meanwhile.
#![expect(clippy::print_stdout, reason = "its output is what it is for")]

use std::error::Error;
use std::fs::File;
use std::hint::black_box;
use std::os::fd::AsFd;
use std::time::Instant;

use oci_spec::runtime::{LinuxNamespaceBuilder, LinuxNamespaceType};
use rustix::fs::CWD;
use rustix::mount::{OpenTreeFlags, open_tree};
use wharf_runtime::{Cancel, Request, Stdio, default_spec, run};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let root = arguments.next().unwrap_or_else(|| "/".to_owned());
    let runs: usize = arguments.next().map_or(Ok(200), |runs| runs.parse())?;
    let mebibytes: usize = arguments.next().map_or(Ok(0), |size| size.parse())?;
    let ballast = black_box(vec![1u8; mebibytes << 20]);
    File::open(&root)?;
    for network in [false, true] {
        let mut times = Vec::new();
        for _ in 0..runs {
            let start = Instant::now();
            let mut spec = default_spec();
            if let Some(process) = spec.process_mut() {
                process.set_args(Some(vec!["/bin/true".to_owned()]));
            }
            let namespaces = spec.linux_mut().as_mut().and_then(|linux| linux.namespaces_mut().as_mut());
            if let (true, Some(namespaces)) = (network, namespaces) {
                namespaces.push(LinuxNamespaceBuilder::default().typ(LinuxNamespaceType::Network).build()?);
            }
            let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
            let mount = open_tree(CWD, &root, flags)?;
            let cancel = Cancel::new()?;
            let mut sink = |_, _: &[u8]| {};
            let stdio = Stdio::Captured(&mut sink);
            let status = run(Request {
                spec: &spec,
                root: mount.as_fd(),
                binds: vec![],
                stdio,
                ownership: None,
                user_namespace: None,
                cancel: &cancel,
            })?;
            drop(mount);
            times.push(start.elapsed().as_secs_f64() * 1e3);
            black_box(status);
        }
        times.sort_by(f64::total_cmp);
        let at = |part: f64| times.get((times.len() as f64 * part) as usize).copied().unwrap_or_default();
        let name = if network { "own network" } else { "host network" };
        println!("{name}: min {:.2} ms, median {:.2} ms, p90 {:.2} ms", at(0.0), at(0.5), at(0.9));
    }
    black_box(ballast);
    Ok(())
}
