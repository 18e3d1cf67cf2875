//! A layer holds exactly what its step changed, as other programs read it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use crate::harness::{Wharf, debian_layout, have, tool};
use crate::tree::{Look, differences, tree};

/// What GNU tar says of each name of a layer: its mode, owner, and where a link leads; then its attributes.
struct Listing(BTreeMap<String, String>);

impl Listing {
    /// Of the layer `number` of the layout `name`, counted from the base (0).
    fn read(wharf: &Wharf, name: &str, number: usize) -> Self {
        let layout = wharf.path(name);
        let read = |digest: &serde_json::Value| {
            let hex = digest.as_str().unwrap().strip_prefix("sha256:").unwrap();
            layout.join("blobs/sha256").join(hex)
        };
        let json = |path| -> serde_json::Value { serde_json::from_slice(&fs::read(path).unwrap()).unwrap() };
        let index = json(layout.join("index.json"));
        let manifest = json(read(&index["manifests"][0]["digest"]));
        let blob = read(&manifest["layers"][number]["digest"]).display().to_string();
        let text = tool(
            "tar",
            &["--xattrs", "--xattrs-include=*", "--numeric-owner", "--full-time", "-tvvzf", &blob],
        );
        let mut entries: BTreeMap<String, String> = BTreeMap::new();
        let mut last = String::new();
        for line in text.lines() {
            // `-rwsr-xr-x* 0/0 5 2024-01-01 00:00:00 usr/bin/x link to usr/bin/y`, `  x: 7 user.name` for attributes.
            if let Some(attribute) = line.strip_prefix("  x: ") {
                let name = attribute.split_once(' ').unwrap().1;
                entries.get_mut(&last).unwrap().push_str(&format!(" {name}"));
                continue;
            }
            let fields: Vec<&str> = line.split_whitespace().collect();
            let mode = fields[0].trim_end_matches(['*', '.', '+']);
            let (name, link) = match fields.iter().position(|field| ["->", "link"].contains(field)) {
                Some(at) => (fields[5..at].join(" "), format!(" {}", fields[at..].join(" "))),
                None => (fields[5..].join(" "), String::new()),
            };
            last = name.trim_start_matches("./").trim_end_matches('/').to_owned();
            assert!(
                entries.insert(last.clone(), format!("{mode} {}{link}", fields[1])).is_none(),
                "twice: {line}"
            );
        }
        Self(entries)
    }

    #[track_caller]
    fn check(&self, expected: &[(&str, &str)]) {
        let found: Vec<_> = self.0.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
        assert_eq!(found, expected);
    }
}

/// Sets an attribute with what Debian's smallest system has: `setfattr` is in none of its packages.
const SET_ATTRIBUTE: &str = r#"perl -e 'my ($path, $name, $value) = ("/opt/new/attributes", "user.colour", "blue");
my $number = `uname -m` =~ /aarch64/ ? 5 : 188;
syscall($number, $path, $name, $value, length $value, 0) == 0 or die $!'"#;

#[test]
fn every_kind_of_change_is_in_the_layer_and_nothing_else() {
    let (Some(_), Some(wharf)) = (debian_layout(), Wharf::new()) else { return };
    if !have(&["umoci"]) {
        return;
    }
    let script = [
        // Read, and written as it was before it is read again: no change.
        "cat /etc/passwd >/dev/null",
        "rm /etc/issue",
        "rm -r /usr/share/doc/tar",
        // A directory that was there is another one now: opaque.
        "rm -r /usr/share/doc/sed && mkdir -p /usr/share/doc/sed && echo new >/usr/share/doc/sed/new",
        // A file becomes a directory, a symlink a file.
        "rm /etc/issue.net && mkdir -p /etc/issue.net/sub",
        "rm /etc/os-release && echo mine >/etc/os-release",
        "echo line >>/etc/motd",
        "chmod u+s,g+s /bin/cat",
        "chown 7:8 /etc/shells",
        "mkdir -m 1777 -p /opt/new",
        "echo text >/opt/new/file && ln /opt/new/file /opt/new/hard && ln -s file /opt/new/soft",
        // One name of a file that was there gets a second one.
        "ln /etc/networks /opt/new/networks 2>/dev/null || ln /etc/host.conf /opt/new/networks",
        "mkfifo -m 640 /opt/new/pipe",
        "touch /opt/new/attributes",
        SET_ATTRIBUTE,
        "truncate -s 8M /opt/new/sparse",
        "touch \"/opt/new/$(printf 'a%.0s' $(seq 200))\"",
        // What comes and goes leaves nothing.
        "touch /tmp/gone && rm /tmp/gone && mkdir -p /srv/a/b && rm -r /srv/a",
        // Places of the sandbox itself.
        "echo x >/dev/shm/file; echo x >/run/file; rm /run/file; test -s /etc/hosts; test -e /etc/resolv.conf",
    ];
    let dockerfile = format!("FROM debian\nRUN <<'EOF'\nset -e\n{}\nEOF\n", script.join("\n"));
    wharf.dockerfile(&dockerfile).build(&["-t", "app:v1", "-o", "type=oci,tar=false,dest=layout"]).success();
    let long = format!("opt/new/{}", "a".repeat(200));
    let found = Listing::read(&wharf, "layout", 1);
    let networks = if found.0.contains_key("etc/networks") { "etc/networks" } else { "etc/host.conf" };
    let link_to_networks = format!("hrw-r--r-- 0/0 link to {networks}");
    let mut expected = vec![
        ("etc", "drwxr-xr-x 0/0"),
        ("etc/.wh.issue", "---------- 0/0"),
        ("etc/issue.net", "drwxr-xr-x 0/0"),
        ("etc/issue.net/sub", "drwxr-xr-x 0/0"),
        ("etc/motd", "-rw-r--r-- 0/0"),
        (networks, "-rw-r--r-- 0/0"),
        ("etc/os-release", "-rw-r--r-- 0/0"),
        ("etc/shells", "-rw-r--r-- 7/8"),
        ("opt", "drwxr-xr-x 0/0"),
        ("opt/new", "drwxrwxrwt 0/0"),
        (&long, "-rw-r--r-- 0/0"),
        ("opt/new/attributes", "-rw-r--r-- 0/0 user.colour"),
        ("opt/new/file", "-rw-r--r-- 0/0"),
        ("opt/new/hard", "hrw-r--r-- 0/0 link to opt/new/file"),
        ("opt/new/networks", &link_to_networks),
        ("opt/new/pipe", "prw-r----- 0/0"),
        ("opt/new/soft", "lrwxrwxrwx 0/0 -> file"),
        ("opt/new/sparse", "-rw-r--r-- 0/0"),
        ("usr", "drwxr-xr-x 0/0"),
        ("usr/bin", "drwxr-xr-x 0/0"),
        ("usr/bin/cat", "-rwsr-sr-x 0/0"),
        ("usr/share", "drwxr-xr-x 0/0"),
        ("usr/share/doc", "drwxr-xr-x 0/0"),
        ("usr/share/doc/.wh.tar", "---------- 0/0"),
        ("usr/share/doc/sed", "drwxr-xr-x 0/0"),
        ("usr/share/doc/sed/.wh..wh..opq", "---------- 0/0"),
        ("usr/share/doc/sed/new", "-rw-r--r-- 0/0"),
    ];
    expected.sort_unstable();
    found.check(&expected);

    // Somebody else's unpacker makes the same of it.
    let image = format!("{}:v1", wharf.path("layout").display());
    tool("umoci", &["unpack", "--image", &image, &wharf.path("bundle").display().to_string()]);
    let rootfs = wharf.path("bundle/rootfs");
    let unpacked = tree(&rootfs, Look::Everything);
    let text = |name: &str| unpacked.get(std::ffi::OsStr::new(name)).map(String::as_str);
    for name in ["etc/issue", "usr/share/doc/tar", "usr/share/doc/sed/copyright", "tmp/gone", "srv/a"] {
        assert_eq!(text(name), None, "{name} is there");
    }
    for (name, word) in [
        ("usr/bin/cat", " mode 106755 "),
        ("opt/new/pipe", "fifo"),
        ("opt/new/attributes", " user.colour=blue"),
        ("opt/new/hard", " is \"opt/new/file\""),
        ("opt/new/sparse", "8388608 bytes"),
        (&long, "0 bytes"),
    ] {
        let mode = word.replace(" mode 106755 ", " mode 6755 ");
        assert!(text(name).is_some_and(|text| text.contains(&mode)), "{name}: {:?}", text(name));
    }
}

#[test]
fn a_package_changes_what_dpkg_says_and_nothing_else() {
    let (Some(base), Some(wharf)) = (debian_layout(), Wharf::new()) else { return };
    if !have(&["umoci"]) {
        return;
    }
    // One package with a setuid program, one whose program has a capability in an attribute.
    wharf.dockerfile(
        "FROM debian\n\
         RUN apt-get update && apt-get install -y --no-install-recommends sudo libcap2-bin iputils-ping && apt-get clean\n",
    );
    wharf.build(&["-t", "app:v1", "-o", "type=image", "-o", "type=oci,tar=false,dest=layout"]).success();
    let owned = wharf.run(&["run", "--rm", "app:v1", "dpkg", "-L", "sudo", "iputils-ping"]).success().text();

    let at = |name: &str| wharf.path(name).display().to_string();
    tool("umoci", &["unpack", "--image", &format!("{}:latest", base.display()), &at("before")]);
    tool("umoci", &["unpack", "--image", &format!("{}:v1", at("layout")), &at("after")]);
    let before = tree(&wharf.path("before/rootfs"), Look::Everything);
    let after = tree(&wharf.path("after/rootfs"), Look::Everything);

    for path in owned.lines().filter_map(|path| path.strip_prefix('/')).filter(|path| *path != ".") {
        let there = fs::symlink_metadata(wharf.path("after/rootfs").join(path)).is_ok();
        assert!(there, "dpkg's {path} is not there");
    }
    let text = |name: &str| after[std::ffi::OsStr::new(name)].as_str();
    assert!(text("usr/bin/sudo").contains(" mode 4755 of 0:0"), "{}", text("usr/bin/sudo"));
    assert!(text("usr/bin/ping").contains(" security.capability="), "{}", text("usr/bin/ping"));

    // Names in the layer and names that differ are the same, but for directories on the way.
    let changed: BTreeSet<String> = differences(&before, &after)
        .iter()
        .map(|line| line[2..].split_once(' ').unwrap().0.to_owned())
        .collect();
    let listing = Listing::read(&wharf, "layout", 1);
    let listed: BTreeSet<String> = listing.0.keys().map(|name| name.replace(".wh.", "")).collect();
    let missing: Vec<_> = changed.difference(&listed).collect();
    assert!(missing.is_empty(), "changed, but not in the layer: {missing:?}");
    let on_the_way = |name: &str| {
        listing.0.get(name).is_some_and(|text| text.starts_with('d'))
            && changed.iter().any(|it| it.starts_with(&format!("{name}/")))
    };
    let idle: Vec<_> = listed.difference(&changed).filter(|name| !on_the_way(name)).collect();
    println!("in the layer without a change: {idle:?}");
    // Directories in which something came and went have another time; no file may be there for nothing.
    let idle: Vec<_> = idle.iter().filter(|name| !listing.0[**name].starts_with('d')).collect();
    assert!(idle.is_empty(), "in the layer, but not changed: {idle:?}");
    let stubs = ["etc/hosts", "etc/resolv.conf", "etc/hostname", "proc", "sys", "dev"];
    let stubs: Vec<_> = stubs.iter().filter(|name| listing.0.contains_key(**name)).collect();
    assert!(stubs.is_empty(), "of the sandbox: {stubs:?}");
    assert!(!listing.0.keys().any(|name| ["proc/", "sys/", "dev/"].iter().any(|top| name.starts_with(top))));
}
