//! A terminal here and one in the container: keys, sizes, and the keys that leave the container to itself.

use std::io::{Read as _, Write as _};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

use super::World;
use crate::harness::{have, tool, wait_until};

/// A command at a terminal of its own.
struct AtTerminal {
    child: Child,
    shown: Arc<Mutex<String>>,
}

impl AtTerminal {
    fn start(world: &World, arguments: &[&str]) -> Self {
        let quoted: Vec<String> = std::iter::once(env!("CARGO_BIN_EXE_wharf"))
            .chain(["--root", world.wharf.path("store").to_str().unwrap()])
            .chain(arguments.iter().copied())
            .map(|word| format!("'{word}'"))
            .collect();
        let line = format!("stty rows 30 cols 90; echo tty=$(tty); {}; echo status=$?", quoted.join(" "));
        let mut child = Command::new("script")
            .args(["-qec", &line, "/dev/null"])
            .env("SHELL", "/bin/sh")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let shown = Arc::new(Mutex::new(String::new()));
        let mut stdout = child.stdout.take().unwrap();
        let seen = Arc::clone(&shown);
        thread::spawn(move || {
            let mut buffer = [0; 1000];
            while let Ok(count @ 1..) = stdout.read(&mut buffer) {
                seen.lock().unwrap().push_str(&String::from_utf8_lossy(&buffer[..count]));
            }
        });
        Self { child, shown }
    }

    fn type_in(&mut self, keys: &[u8]) {
        self.child.stdin.as_mut().unwrap().write_all(keys).unwrap();
    }

    fn shown(&self) -> String {
        self.shown.lock().unwrap().clone()
    }

    #[track_caller]
    fn wait_for(&self, text: &str) {
        wait_until(&format!("`{text}` is shown"), || {
            thread::sleep(std::time::Duration::from_millis(10));
            self.shown().contains(text)
        });
    }

    /// Gives the terminal another size.
    fn resize(&self, rows: u16, columns: u16) {
        let shown = self.shown();
        let tty = shown.split("tty=").nth(1).unwrap().split_whitespace().next().unwrap();
        tool("stty", &["-F", tty, "rows", &rows.to_string(), "cols", &columns.to_string()]);
    }

    fn end(mut self) -> String {
        self.child.wait().unwrap();
        self.shown()
    }
}

#[test]
fn a_terminal_has_keys_and_a_size() {
    let Some(world) = World::new() else { return };
    if !have(&["script", "stty"]) {
        return;
    }
    let run = ["run", "--rm", "-it", "--network", "none", "app", "sh"];
    let mut terminal = AtTerminal::start(&world, &run);
    terminal.wait_for("# ");
    terminal.type_in(b"stty size; echo a$((1+1))b\r");
    terminal.wait_for("30 90");
    terminal.wait_for("a2b");
    terminal.resize(41, 101);
    wait_until("the container has heard of it", || {
        terminal.type_in(b"stty size\r");
        thread::sleep(std::time::Duration::from_millis(100));
        terminal.shown().contains("41 101")
    });
    // Ctrl-C is the foreground program's, and not the end of anything else.
    terminal.type_in(b"sleep 1000\r");
    thread::sleep(std::time::Duration::from_millis(200));
    terminal.type_in(&[3]);
    terminal.type_in(b"echo st$((3+3))ll; exit 9\r");
    terminal.wait_for("st6ll");
    assert!(terminal.end().contains("status=9"));
}

#[test]
fn keys_leave_a_container_to_itself() {
    let Some(world) = World::new() else { return };
    if !have(&["script", "stty"]) {
        return;
    }
    let run = ["run", "-it", "--name", "left", "--network", "none", "app", "sh"];
    let mut terminal = AtTerminal::start(&world, &run);
    terminal.wait_for("# ");
    // The first key alone, and then something else, is input.
    terminal.type_in(b"echo x\x10y\r");
    terminal.type_in(&[16, 17]);
    terminal.wait_for("status=0");
    terminal.end();
    assert_eq!(world.field("left", "{{.State.Status}}"), "running");
    // Other keys, for who attaches.
    let mut terminal = AtTerminal::start(&world, &["attach", "--detach-keys", "ctrl-a,d", "left"]);
    wait_until("the shell answers", || {
        terminal.type_in(b"echo a$((4+4))b\r");
        thread::sleep(std::time::Duration::from_millis(100));
        terminal.shown().contains("a8b")
    });
    terminal.type_in(b"\x01d");
    terminal.wait_for("status=0");
    terminal.end();
    // A process of `exec` has a terminal of its own.
    let mut terminal = AtTerminal::start(&world, &["exec", "-it", "left", "sh"]);
    terminal.wait_for("# ");
    terminal.type_in(b"stty size; exit 4\r");
    terminal.wait_for("30 90");
    assert!(terminal.end().contains("status=4"));
    world.run(&["rm", "-f", "left"]).success();
}
