//! Containers through the command line: what flags change, what commands do, how they end, and what stays.

mod chroot;
mod flags;
mod life;
mod output;
mod sharing;
mod shells;
mod statuses;
mod templates;
mod terminal;

use std::process::{Child, Command};
use std::thread;
use std::time::Duration;

use crate::harness::{Outcome, Wharf, busybox_layout, processes, wait_until};

/// A store with the image `app`: busybox with a command of its own, a volume and a port.
struct World {
    wharf: Wharf,
}

impl World {
    fn new() -> Option<Self> {
        let (Some(_), Some(wharf)) = (busybox_layout(), Wharf::new()) else { return None };
        wharf.dockerfile(
            "FROM busybox\nENV OF_IMAGE=yes CHANGED=no\nLABEL of=image\nWORKDIR /srv\nEXPOSE 80 53/udp\n\
             RUN mkdir /vol && echo seed >/vol/file\nCMD [\"echo\", \"of the image\"]\n",
        );
        wharf.build(&["-t", "app"]).success();
        Some(Self { wharf })
    }

    /// `wharf ARGUMENTS`.
    fn run(&self, arguments: &[&str]) -> Outcome {
        self.wharf.run(arguments)
    }

    /// What a command that succeeds prints, without the newline at its end.
    #[track_caller]
    fn text(&self, arguments: &[&str]) -> String {
        self.run(arguments).success().text().trim_end().to_owned()
    }

    /// A field of a container.
    #[track_caller]
    fn field(&self, name: &str, template: &str) -> String {
        self.text(&["container", "inspect", "-f", template, name])
    }

    /// The names of the volumes.
    fn volumes(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.wharf.path("store/volumes")).into_iter().flatten();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        self.wharf.command("store", arguments)
    }

    fn spawn(&self, arguments: &[&str]) -> Child {
        self.command(arguments).spawn().unwrap()
    }

    /// Waits until a container's output has `text`.
    #[track_caller]
    fn wait_for(&self, name: &str, text: &str) {
        wait_until(&format!("`{text}` is in the log of {name}"), || {
            thread::sleep(Duration::from_millis(20));
            let logs = self.run(&["logs", name]);
            logs.text().contains(text) || logs.stderr.contains(text)
        });
    }

    /// The monitors and other processes of this store.
    fn processes(&self) -> Vec<String> {
        processes(&self.wharf.path("store").display().to_string())
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // What a test that has failed has left would run on.
        let all = self.run(&["ps", "-aq"]).text();
        let all: Vec<&str> = all.split_whitespace().collect();
        if !all.is_empty() {
            self.run(&[&["rm", "-f", "-v"], &all[..]].concat());
        }
        if thread::panicking() {
            return;
        }
        // The network process stays for some seconds after its last connection.
        wait_until("no process of the store is left", || {
            thread::sleep(Duration::from_millis(20));
            self.processes().is_empty()
        });
        assert_eq!(self.text(&["ps", "-aq"]), "");
        assert_eq!(self.wharf.leftovers("store"), Vec::<String>::new());
    }
}
