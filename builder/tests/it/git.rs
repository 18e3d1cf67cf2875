//! Git repositories in ADD and as contexts: real ones, from servers on loopback, read back with git and tar.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use rustix::process::{Pid, Signal, kill_process};

use wharf::source::git::{Access, GitSource, GitSources};

use crate::git_fixture::{Daemon, GitServer};
use crate::harness::{Outcome, Wharf, processes, tool, wait_until};

/// `r.git`: two commits on `main` and one on `dev`, an annotated tag and a plain one at the first, a ref of no such kind.
const REPOSITORY: &str = "\
git init -q -b main work; cd work
mkdir -p sub/deep; echo one >a; echo x >sub/b; echo y >sub/deep/c; ln -s a link; echo '#!/bin/sh' >run; chmod +x run
git add .; git commit -qm one; git tag -a v1 -m v1; git tag plain
echo two >a; git commit -qam two; git update-ref refs/pull/1/head HEAD
echo three >a; git commit -qam three
git checkout -qb dev v1; echo dev >a; git commit -qam dev; git checkout -q main
cd ..; git clone -q --mirror work r.git; git -C r.git update-server-info
";

fn fixture() -> Option<(Wharf, GitServer)> {
    let (wharf, server) = (Wharf::new()?, GitServer::start()?);
    server.sh(REPOSITORY);
    Some((wharf, server))
}

/// Builds with `arguments` and unpacks the result with tar.
#[track_caller]
fn files(wharf: &Wharf, arguments: &[&str]) -> PathBuf {
    let arguments = [arguments, &["-o", "type=tar,dest=out.tar"]].concat();
    wharf.build(&arguments).success();
    unpacked(wharf)
}

fn unpacked(wharf: &Wharf) -> PathBuf {
    let out = wharf.path("unpacked");
    let _ = fs::remove_dir_all(&out);
    fs::create_dir(&out).unwrap();
    tool("tar", &["-C", out.to_str().unwrap(), "-xf", wharf.path("out.tar").to_str().unwrap()]);
    out
}

/// One ADD of each source, and what the file `a` (or what there is) of each says.
#[track_caller]
fn check(wharf: &Wharf, sources: &[(String, &str)]) {
    let mut dockerfile = "FROM scratch\n".to_owned();
    for (number, (source, _)) in sources.iter().enumerate() {
        dockerfile += &format!("ADD {source} /{number}/\n");
    }
    wharf.dockerfile(&dockerfile);
    let out = files(wharf, &[]);
    for (number, (source, expected)) in sources.iter().enumerate() {
        let (file, text) = expected.split_once('=').unwrap_or(("a", expected));
        let found = fs::read_to_string(out.join(number.to_string()).join(file));
        assert_eq!(found.unwrap_or_else(|error| error.to_string()).trim(), text, "{source}");
    }
}

#[test]
fn a_reference_is_a_branch_a_tag_or_a_commit_with_every_server() {
    let Some((wharf, server)) = fixture() else { return };
    let daemon = Daemon::git(&server);
    let id = |name: &str| server.sh(&format!("git -C r.git rev-parse {name}^{{commit}}"));
    let (first, second, dev) = (id("v1"), id("main~"), id("dev"));
    let urls = [
        server.url("smart/r.git"),
        server.url("old/r.git"),
        server.url("dumb/r.git"),
        format!("git://127.0.0.1:{}/r.git", daemon.port),
    ];
    for url in urls {
        let sources = [
            (String::new(), "three"),
            ("#main".to_owned(), "three"),
            ("#dev".to_owned(), "dev"),
            ("#refs/heads/dev".to_owned(), "dev"),
            ("#v1".to_owned(), "one"),
            ("#refs/tags/plain".to_owned(), "one"),
            ("#pull/1/head".to_owned(), "two"),
            (format!("#{second}"), "two"),
            (format!("#{}", &second[..9]), "two"),
            (format!("#{}", &dev[..7].to_uppercase()), "dev"),
            ("#:sub".to_owned(), "b=x"),
            ("#dev:/sub/deep/".to_owned(), "c=y"),
            ("?branch=dev".to_owned(), "dev"),
            ("?tag=v1".to_owned(), "one"),
            ("?ref=refs/tags/v1&subdir=sub".to_owned(), "b=x"),
            (format!("?ref={second}&fetch-by-commit=true"), "two"),
            (format!("?branch=dev&checksum={dev}&fetch-by-commit"), "dev"),
            (format!("?tag=v1&commit={}", &first[..12]), "one"),
        ];
        let sources = sources.map(|(rest, expected)| (format!("{url}{rest}"), expected));
        check(&wharf, &sources);
        // Every server begins with nothing.
        fs::remove_dir_all(wharf.path("store")).unwrap();
    }
}

#[test]
fn a_repository_may_use_sha256() {
    let Some((wharf, server)) = fixture() else { return };
    server.sh(
        "git init -q -b main --object-format=sha256 work256; cd work256; echo long >a; git add .; git commit -qm one
         git tag -a v1 -m v1; echo longer >a; git commit -qam two; cd ..; git clone -q --mirror work256 s.git",
    );
    let first = server.sh("git -C s.git rev-parse v1^{commit}");
    assert_eq!(first.len(), 64);
    let url = server.url("smart/s.git");
    check(
        &wharf,
        &[
            (url.clone(), "longer"),
            (format!("{url}#v1"), "long"),
            (format!("{url}#{first}"), "long"),
            (format!("{url}#{}", &first[..8]), "long"),
            (format!("--keep-git-dir {url}#v1"), "long"),
        ],
    );
    let head = tool("git", &["-C", wharf.path("unpacked/4").to_str().unwrap(), "rev-parse", "HEAD"]);
    assert_eq!(head.trim(), first);
}

#[test]
fn what_cannot_be_had_is_named() {
    let Some((wharf, server)) = fixture() else { return };
    let url = server.url("smart/r.git");
    let commit = server.sh("git -C r.git rev-parse main");
    let missing = "0123456789".repeat(4);
    let blob = server.sh("git -C r.git rev-parse main:a");
    for (source, code, words) in [
        (format!("{url}#none"), 4, &["has no branch, tag or commit `none`"][..]),
        (format!("{url}#{missing}"), 4, &["has no branch, tag or commit `0123456789"]),
        (format!("{url}#{blob}"), 4, &["ADD"]),
        (format!("{url}#abcdef"), 4, &["has no branch, tag or commit `abcdef`"]),
        (format!("{url}#main:none"), 4, &["has no directory `none`", &commit]),
        (format!("{url}#main:a"), 4, &["has no directory `a`"]),
        (format!("--checksum=abcdef0 {url}#main"), 4, &["expected checksum to match abcdef0", &commit]),
        (format!("{url}?checksum=abcdef0"), 4, &["expected checksum to match abcdef0", &commit]),
        (format!("{url}?branch=main&fetch-by-commit=true"), 4, &["fetch-by-commit needs a commit"]),
        (format!("{url}?branch=a#b"), 3, &["ref conflicts"]),
        (format!("{url}?subdir=a#:b"), 3, &["subdir conflicts"]),
        (format!("--checksum=abc {url}?checksum=def"), 3, &["checksum"]),
        (format!("--keep-git-dir {url}?keep-git-dir=false"), 3, &["inconsistent keep-git-dir"]),
        (format!("{url}?what=x"), 3, &["unexpected query \"what\""]),
        (format!("{url}?submodules=maybe"), 3, &["invalid submodules value"]),
        (format!("{url}#--upload-pack=touch"), 4, &["is not the name of a branch"]),
        (format!("{url}#a..b"), 4, &["is not the name of a branch"]),
        ("git@-oProxyCommand=touch:x.git".to_owned(), 4, &["is not the address of a git repository"]),
        ("ssh://-oProxyCommand=touch/x.git".to_owned(), 4, &["is not the address of a git repository"]),
        (server.url("smart/none.git"), 4, &["not found"]),
        ("http://127.0.0.1:1/r.git".to_owned(), 4, &["cannot ask `http://127.0.0.1:1/r.git`", "status 128"]),
    ] {
        wharf.dockerfile(&format!("FROM scratch\nADD {source} /\n")).build(&[]).fails_with(code, words);
    }
    assert_eq!(wharf.leftovers("store"), Vec::<String>::new());
    server.sh("git init -q --bare empty.git");
    let empty = server.url("smart/empty.git");
    wharf.dockerfile(&format!("FROM scratch\nADD {empty} /\n")).build(&[]).fails_with(4, &["is empty"]);
}

#[test]
fn git_is_needed() {
    let Some((wharf, server)) = fixture() else { return };
    wharf.dockerfile(&format!("FROM scratch\nADD {} /\n", server.url("smart/r.git")));
    let mut command = wharf.build_command("store", &[]);
    command.env("PATH", wharf.context());
    Outcome::of(command).fails_with(5, &["there is no program `git`", "the package is called `git`"]);
    // Neither a home nor anything of the user's is.
    let mut command = wharf.build_command("store", &[]);
    command.env_remove("HOME").env("GIT_DIR", "/nowhere").env("GIT_CONFIG_GLOBAL", "/nowhere");
    command.env("GIT_SSH_COMMAND", "false").env("GIT_TRACE", "1").env("GIT_ASKPASS", "false");
    let said = Outcome::of(command).success();
    assert!(!said.stderr.contains("trace"), "{}", said.stderr);
}

#[test]
fn files_have_two_modes_one_owner_and_a_time() {
    let Some((wharf, server)) = fixture() else { return };
    let url = server.url("smart/r.git");
    wharf.dockerfile(&format!(
        "FROM scratch\nADD {url}?mtime=commit /old/\nADD {url} /new/\nADD --chown=7:8 --exclude=sub {url} /other/\n\
         ADD --link {url} /link/\n"
    ));
    let mut command = wharf.build_command("store", &["-o", "type=tar,dest=out.tar"]);
    // A umask that lets nobody read.
    let script = "umask 077; exec \"$0\" \"$@\"";
    let mut shell = Command::new("sh");
    shell.args(["-c", script]).arg(command.get_program()).args(command.get_args());
    shell.current_dir(wharf.path("")).stderr(std::process::Stdio::piped());
    Outcome::of(shell).success();
    command.env_clear();
    let tar = wharf.path("out.tar").display().to_string();
    let list = tool("tar", &["--utc", "--full-time", "--numeric-owner", "-tvf", &tar]);
    let line = |name: &str| {
        let found = list.lines().find(|line| line.split_ascii_whitespace().nth(5) == Some(name));
        found.unwrap_or_else(|| panic!("no {name} in\n{list}"))
    };
    for (name, mode) in [
        ("old/a", "-rw-r--r-- 0/0"),
        ("old/run", "-rwxr-xr-x 0/0"),
        ("old/sub/", "drwxr-xr-x 0/0"),
        ("old/link", "lrwxrwxrwx 0/0"),
        ("new/sub/deep/c", "-rw-r--r-- 0/0"),
        ("other/a", "-rw-r--r-- 7/8"),
        ("link/a", "-rw-r--r-- 0/0"),
    ] {
        assert!(line(name).starts_with(mode), "{}", line(name));
    }
    assert!(!list.contains("other/sub"), "{list}");
    assert!(!list.contains(".git"), "{list}");
    for name in ["old/a", "old/link", "old/sub/", "old/sub/deep/c"] {
        assert!(line(name).contains("2023-11-14 22:13:20"), "{}", line(name));
    }
    assert!(!line("new/a").contains("2023-"), "{}", line("new/a"));
}

#[test]
fn a_kept_git_dir_is_a_shallow_clone() {
    let Some((wharf, server)) = fixture() else { return };
    let url = server.url("smart/r.git");
    let with_user = url.replace("http://", "http://me:pass@");
    wharf.dockerfile(&format!(
        "FROM scratch\nADD --keep-git-dir {with_user}#dev /dev\nADD {url}?tag=v1&keep-git-dir=true /tag\n\
         ADD --keep-git-dir=true {url}#dev:sub /sub\nADD --keep-git-dir=false {url} /none\n"
    ));
    let out = files(&wharf, &[]);
    let git = |directory: &str, arguments: &[&str]| {
        let directory = out.join(directory).display().to_string();
        tool("git", &[&["-c", "safe.directory=*", "-C", &directory], arguments].concat()).trim().to_owned()
    };
    for (directory, name) in [("dev", "dev"), ("tag", "v1")] {
        let commit = server.sh(&format!("git -C r.git rev-parse {name}^{{commit}}"));
        assert_eq!(git(directory, &["rev-parse", "HEAD"]), commit);
        assert_eq!(git(directory, &["status", "--porcelain"]), "");
        assert_eq!(git(directory, &["rev-list", "--count", "HEAD"]), "1");
        assert_eq!(git(directory, &["rev-parse", "--is-shallow-repository"]), "true");
        assert_eq!(git(directory, &["remote", "get-url", "origin"]), url);
        git(directory, &["fsck"]);
        // It is one that can be gone on with.
        git(directory, &["fetch", "--quiet", "--unshallow", "origin"]);
    }
    assert_eq!(git("dev", &["rev-parse", "dev"]), git("dev", &["rev-parse", "HEAD"]));
    assert_eq!(git("tag", &["describe", "--tags"]), "v1");
    assert_eq!(git("tag", &["cat-file", "-t", "v1"]), "tag");
    assert!(!out.join("sub/.git").exists() && !out.join("none/.git").exists());
}

/// `p.git` has the submodules `r` (by a relative address) and, in the one called `mid`, another `r`.
const SUBMODULES: &str = "\
git init -q -b main mid; cd mid; echo mid >m; git add m; git -c protocol.file.allow=always submodule --quiet add -b dev ../r.git lib/r
git commit -qam mid; git config -f .gitmodules submodule.lib/r.url ../r.git; git commit -qam url || true
cd ..; git clone -q --mirror mid mid.git
git init -q -b main parent; cd parent; echo parent >p; git add p; git -c protocol.file.allow=always submodule --quiet add ../mid.git mid
git config -f .gitmodules submodule.mid.url ./../mid.git; git commit -qam parent
cd ..; git clone -q --mirror parent p.git
";

#[test]
fn submodules_come_with_their_own() {
    let Some((wharf, server)) = fixture() else { return };
    server.sh(SUBMODULES);
    let url = server.url("smart/p.git");
    check(
        &wharf,
        &[
            (url.clone(), "mid/lib/r/a=dev"),
            (format!("{url}#:mid"), "m=mid"),
            (format!("{url}#main:mid/lib/r"), "sub/b=x"),
            (format!("{url}?submodules=false"), "p=parent"),
            (format!("--keep-git-dir {url}"), "mid/lib/r/a=dev"),
        ],
    );
    let out = wharf.path("unpacked");
    assert_eq!(fs::read_dir(out.join("3/mid")).unwrap().count(), 0);
    assert!(!out.join("0/mid/.git").exists());
    let kept = out.join("4").display().to_string();
    let status = tool("git", &["-c", "safe.directory=*", "-C", &kept, "submodule", "status"]);
    assert!(status.starts_with(' ') && status.contains(" mid"), "{status:?}");
    assert_eq!(tool("git", &["-c", "safe.directory=*", "-C", &kept, "status", "--porcelain"]), "");
}

#[test]
fn a_submodule_reaches_nothing_of_this_machine() {
    let Some((wharf, server)) = fixture() else { return };
    let mark = wharf.path("mark").display().to_string();
    let secret = wharf.path("secret").display().to_string();
    fs::create_dir(&secret).unwrap();
    let commit = server.sh("git -C r.git rev-parse main");
    for (name, address) in [
        ("file", format!("file://{}/r.git", server.root().display())),
        ("path", server.root().join("r.git").display().to_string()),
        ("ext", format!("ext::sh -c touch% {mark}")),
        ("option", format!("--upload-pack=touch {mark}")),
        ("proxy", format!("ssh://-oProxyCommand=touch${{IFS}}{mark}/x")),
        ("up", "../../../../x".to_owned()),
    ] {
        server.sh(&format!(
            "git init -q -b main h-{name}; cd h-{name}
             git config -f .gitmodules submodule.s.path s; git config -f .gitmodules submodule.s.url '{address}'
             git config -f .gitmodules submodule.s.update '!touch {mark}'
             git update-index --add --cacheinfo 160000,{commit},s; git add .gitmodules; git commit -qm x
             cd ..; git clone -q --mirror h-{name} h-{name}.git"
        ));
        let url = server.url(&format!("smart/h-{name}.git"));
        wharf
            .dockerfile(&format!("FROM scratch\nADD {url} /\n"))
            .build(&[])
            .fails_with(4, &["submodule `s`", "is not the address"]);
    }
    // A filter that only a configuration could define, and a submodule that .gitmodules does not know.
    server.sh(&format!(
        "git init -q -b main filters; cd filters; echo '* filter=evil ident -text' >.gitattributes; echo x >a
         printf '[filter \"evil\"]\\nsmudge = touch {mark}\\n' >.gitconfig; git add .; git commit -qm x
         cd ..; git clone -q --mirror filters filters.git
         git init -q -b main unknown; cd unknown; git update-index --add --cacheinfo 160000,{commit},s; git commit -qm x
         cd ..; git clone -q --mirror unknown unknown.git"
    ));
    check(
        &wharf,
        &[(server.url("smart/filters.git"), "x"), (server.url("smart/unknown.git?submodules=no"), "")].map(
            |(url, expected)| {
                (
                    url.replace("=no", "=false"),
                    if expected.is_empty() { ".=Is a directory (os error 21)" } else { expected },
                )
            },
        ),
    );
    wharf
        .dockerfile(&format!("FROM scratch\nADD {} /\n", server.url("smart/unknown.git")))
        .build(&[])
        .fails_with(4, &["submodule at `s`", ".gitmodules says nothing", "?submodules=false"]);
    assert!(!wharf.path("mark").exists());
}

#[test]
fn a_hostile_tree_stays_in_its_place() {
    let Some((wharf, server)) = fixture() else { return };
    let mark = wharf.path("mark").display().to_string();
    // A link, and a directory of the same name; a file called `.git`; one called `..`.
    server.sh(&format!(
        "git init -q -b main evil; cd evil; blob=$(echo pwned | git hash-object -w --stdin)
         link=$(printf '{}' | git hash-object -w --stdin)
         inner=$(printf '100644 blob %s\\tmark\\n' $blob | git mktree)
         hex() {{ printf \"$(echo $1 | sed 's/../\\\\x&/g')\" ; }}
         tree() {{ git hash-object -t tree -w --literally --stdin; }}
         make() {{ git commit-tree -m x $2 >id; git update-ref refs/heads/$1 $(cat id); }}
         make dotgit $( (printf '100644 .git\\0'; python3 -c \"import sys;sys.stdout.buffer.write(bytes.fromhex('$blob'))\") | tree)
         make dotdot $( (printf '40000 ..\\0'; python3 -c \"import sys;sys.stdout.buffer.write(bytes.fromhex('$inner'))\") | tree)
         make twice $( (printf '120000 d\\0'; python3 -c \"import sys;sys.stdout.buffer.write(bytes.fromhex('$link'))\"
                        printf '40000 d\\0'; python3 -c \"import sys;sys.stdout.buffer.write(bytes.fromhex('$inner'))\") | tree)
         cd ..; git clone -q --mirror evil evil.git",
        wharf.path("").display()
    ));
    for branch in ["dotgit", "dotdot", "twice"] {
        let url = server.url(&format!("smart/evil.git#{branch}"));
        let built = wharf.dockerfile(&format!("FROM scratch\nADD {url} /\n")).build(&[]);
        assert!(matches!(built.code, Some(0 | 4)), "{}", built.stderr);
        assert!(!PathBuf::from(&mark).exists(), "{branch} got out");
    }
    assert_eq!(wharf.leftovers("store"), Vec::<String>::new());
}

#[test]
fn a_private_repository_wants_a_token() {
    let Some((wharf, server)) = fixture() else { return };
    let url = server.url("private/r.git");
    wharf.dockerfile(&format!("FROM scratch\nADD {url} /\n"));
    wharf.build(&[]).fails_with(4, &["terminal prompts disabled", "--secret id=GIT_AUTH_TOKEN"]);
    fs::write(wharf.path("token"), "t0ken\n").unwrap();
    fs::write(wharf.path("header"), "Basic eC1hY2Nlc3MtdG9rZW46dDBrZW4=").unwrap();
    let own = format!("id=GIT_AUTH_TOKEN.{},src=token", server.address);
    for secret in ["id=GIT_AUTH_TOKEN,src=token", &own, "id=GIT_AUTH_HEADER,src=header"] {
        let built = wharf.build_in("fresh", &["--secret", secret, "-o", "type=tar,dest=out.tar"]).success();
        assert!(!built.stderr.contains("t0ken") && !built.stderr.contains("eC1hY2"), "{}", built.stderr);
        assert_eq!(fs::read_to_string(unpacked(&wharf).join("a")).unwrap(), "three\n");
        for word in ["t0ken", "eC1hY2"] {
            let found = Command::new("grep").args(["-rlaF", word]).arg(wharf.path("fresh")).output().unwrap();
            assert_eq!(String::from_utf8_lossy(&found.stdout), "", "{word} is in the store");
        }
        fs::remove_dir_all(wharf.path("fresh")).unwrap();
    }
    let with_user = url.replace("http://", "http://x-access-token:t0ken@");
    wharf.dockerfile(&format!("FROM scratch\nADD {with_user} /\n")).build(&[]).success();
    let wrong = url.replace("http://", "http://x-access-token:wr0ng@");
    let message = format!("cannot ask `{url}` for its branches and tags");
    wharf.dockerfile(&format!("FROM scratch\nADD {wrong}#dev /\n")).build(&[]).fails_with(4, &[&message]);

    // Where a server redirects to is not told.
    server.requests();
    wharf.dockerfile(&format!("FROM scratch\nADD {} /\n", server.url("moved/r.git")));
    wharf.build(&["--secret", "id=GIT_AUTH_TOKEN,src=token"]).fails_with(4, &["redirect"]);
    assert!(server.requests().iter().all(|line| line.contains("/moved/")));
    wharf.build(&[]).success();
}

#[test]
fn an_unchanged_commit_is_not_fetched_again() {
    let Some((wharf, server)) = fixture() else { return };
    let url = server.url("smart/r.git");
    let commit = server.sh("git -C r.git rev-parse dev");
    wharf.dockerfile(&format!("FROM scratch\nADD {url}#{commit} /r/\n")).build(&[]).success();
    assert!(!server.requests().is_empty());
    wharf.build(&[]).success();
    wharf.build(&["--no-cache"]).success();
    assert_eq!(server.requests(), Vec::<String>::new());
    // A branch at the same commit is looked up, and that is all.
    wharf.dockerfile(&format!("FROM scratch\nADD {url}#dev /r/\n"));
    wharf.build(&[]).success().steps().check_ran(&[]);
    let requests = server.requests();
    assert_eq!(requests.len(), 2, "{requests:?}");
    // It may be pushed to with force.
    server.sh("cd work; git checkout -q dev; git reset -q --hard v1; echo forced >a; git commit -qam forced
               git push -q --force ../r.git dev; git checkout -q main");
    check(&wharf, &[(format!("{url}#dev"), "forced"), (format!("{url}#{commit}"), "dev")]);
}

#[test]
fn a_damaged_repository_of_the_store_is_fetched_anew() {
    let Some((wharf, server)) = fixture() else { return };
    let url = server.url("smart/r.git");
    let damages = [
        "find . -path '*/objects/*' -type f -exec sh -c 'chmod u+w \"$0\"; echo junk >\"$0\"' {} \\;",
        "rm */HEAD",
        "rm -r */objects/[0-9a-f][0-9a-f]",
        "for d in *; do touch $d/wharf-busy $d/shallow.lock; done",
        "for d in *; do echo junk >$d/config; done",
        "rm -r *; touch x",
    ];
    for (number, damage) in damages.into_iter().enumerate() {
        wharf.dockerfile(&format!("FROM scratch\nADD {url}#v1 /{number}\n")).build(&[]).success();
        tool("sh", &["-ec", &format!("cd {}; {damage}", wharf.path("store/git").display())]);
        // Nothing that was checked out before helps.
        server.sh(&format!("cd work; echo {number} >a; git commit -qam {number}; git push -q ../r.git main"));
        check(&wharf, &[(url.clone(), &number.to_string()), (format!("{url}#v1:sub/deep"), "c=y")]);
        assert_eq!(wharf.leftovers("store"), Vec::<String>::new());
    }
}

#[test]
fn several_builds_share_a_repository() {
    let Some((wharf, server)) = fixture() else { return };
    let url = server.url("smart/r.git");
    wharf.dockerfile(&format!(
        "FROM scratch\nADD {url} /a\nADD {url}#dev /b\nADD --keep-git-dir {url}#v1 /c\n"
    ));
    let children: Vec<_> = (0..4).map(|_| wharf.build_command("store", &[]).spawn().unwrap()).collect();
    for child in children {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    assert_eq!(wharf.leftovers("store"), Vec::<String>::new());
}

#[test]
fn an_interrupted_fetch_leaves_nothing() {
    let Some((wharf, server)) = fixture() else { return };
    let url = server.url("hang/r.git");
    wharf.dockerfile(&format!("FROM scratch\nADD {url} /\n"));
    for (signal, code) in [(Signal::INT, Some(130)), (Signal::KILL, None)] {
        let mut child = wharf.build_command("store", &[]).spawn().unwrap();
        wait_until("git asks", || processes(&url).len() > 1);
        kill_process(Pid::from_child(&child), signal).unwrap();
        assert_eq!(child.wait().unwrap().code(), code);
        wait_until("its processes are gone", || processes(&url).is_empty());
    }
    let good = server.url("smart/r.git");
    wharf.dockerfile(&format!("FROM scratch\nADD {good} /\n")).build(&[]).success();
    assert_eq!(wharf.leftovers("store"), Vec::<String>::new());
}

#[test]
fn a_repository_is_a_context() {
    let Some((wharf, server)) = fixture() else { return };
    server.sh(
        "cd work; printf 'FROM scratch\\nCOPY . /c/\\n' >Dockerfile; printf 'FROM scratch\\nCOPY b /other/\\n' >sub/Other
         printf 'FROM scratch\\nCOPY --from=named a /n/\\nCOPY b /n/\\n' >sub/Dockerfile; echo a >.dockerignore
         git add .; git commit -qm context; git push -q ../r.git main",
    );
    let url = server.url("smart/r.git");
    let build = |arguments: &[&str]| {
        let all = [&["build", "--progress=plain", "-o", "type=tar,dest=out.tar"], arguments].concat();
        wharf.run(&all).success();
        unpacked(&wharf)
    };
    let out = build(&[&url]);
    // The ignore file of a repository is a file like others.
    assert_eq!(fs::read_to_string(out.join("c/a")).unwrap(), "three\n");
    assert!(out.join("c/.dockerignore").exists() && !out.join("c/.git").exists());
    let kept = build(&["--build-arg", "BUILDKIT_CONTEXT_KEEP_GIT_DIR=1", &format!("{url}#main")]);
    let kept = kept.join("c").display().to_string();
    assert_eq!(tool("git", &["-c", "safe.directory=*", "-C", &kept, "status", "--porcelain"]), "");
    let out = build(&["-f", "Other", &format!("{url}#:sub")]);
    assert_eq!(fs::read_to_string(out.join("other/b")).unwrap(), "x\n");
    let out = build(&["--build-context", &format!("named={url}?branch=dev"), &format!("{url}?subdir=sub")]);
    assert_eq!(fs::read_to_string(out.join("n/a")).unwrap(), "dev\n");
    wharf.run(&["build", &format!("{url}#none")]).fails_with(4, &["has no branch, tag or commit `none`"]);
    wharf.run(&["build", &format!("{url}#:none")]).fails_with(4, &["has no directory `none`"]);
    wharf.run(&["build", &format!("{url}#dev")]).fails_with(2, &["no Dockerfile"]);
    wharf.run(&["build", "git://127.0.0.1:1/x"]).fails_with(4, &["cannot ask `git://127.0.0.1:1/x`"]);
    wharf.run(&["build", "git@-oProxyCommand=x:y"]).fails_with(4, &["is not the address"]);
}

/// The time that `SOURCE_DATE_EPOCH=context` stands for, asked of the source itself.
#[test]
fn a_commit_has_a_time() {
    let Some((wharf, server)) = fixture() else { return };
    let store = wharf_cache::Store::open(&wharf.path("store")).unwrap();
    let cancel = wharf_runtime::Cancel::new().unwrap();
    let sources = GitSources::new(store, Access::default(), cancel);
    for rest in ["", "#v1", "?mtime=commit", "#v1:sub"] {
        let source = GitSource::from_context(&server.url(&format!("smart/r.git{rest}")), false).unwrap();
        // Looked up, and then known.
        for _ in 0..2 {
            let pinned = sources.resolve(&source, &|_| {}).unwrap();
            let chain = sources.checkout(&pinned, &|_| {}).unwrap();
            assert_eq!(sources.commit_time(&chain).unwrap(), 1_700_000_000, "{rest}");
        }
    }
}

#[test]
fn ssh_asks_the_agent_that_was_given() {
    let Some((wharf, server)) = fixture() else { return };
    let Some((daemon, key)) = Daemon::ssh() else { return };
    let url = format!("ssh://root@127.0.0.1:{}{}/r.git", daemon.port, server.root().display());
    wharf.dockerfile(&format!("FROM scratch\nADD {url}#dev /r/\n"));
    wharf.build(&[]).fails_with(4, &["Permission denied", "--ssh default"]);
    let given = format!("default={}", key.display());
    let out = files(&wharf, &["--ssh", &given]);
    assert_eq!(fs::read_to_string(out.join("r/a")).unwrap(), "dev\n");
    // The server is held to the key that the user knows.
    fs::create_dir_all(wharf.path("home/.ssh")).unwrap();
    let other = fs::read_to_string(key.with_extension("pub")).unwrap();
    let known = format!("[127.0.0.1]:{} {other}", daemon.port);
    fs::write(wharf.path("home/.ssh/known_hosts"), known).unwrap();
    wharf.dockerfile(&format!("FROM scratch\nADD {url}#v1 /r/\n"));
    let mut command = wharf.build_command("store", &["--ssh", &given]);
    command.env("HOME", wharf.path("home"));
    Outcome::of(command).fails_with(4, &["Host key verification failed", "known_hosts"]);
    assert_eq!(wharf.leftovers("store"), Vec::<String>::new());
}
