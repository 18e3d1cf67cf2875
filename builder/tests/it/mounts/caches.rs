//! Cache mounts, in one build and in several at once.

use std::fs;
use std::thread;

use crate::harness::{Outcome, Wharf, processes, wait_until};

use super::{check, wharf};

#[test]
fn caches_stay_and_are_no_part_of_the_image() {
    let Some(wharf) = wharf() else { return };
    check(
        &wharf,
        &["-t", "app"],
        "RUN --mount=type=cache,target=/c [ -z \"$(ls /c)\" ] && echo kept >/c/x\n\
         RUN --mount=type=cache,target=//c/./ [ $(cat /c/x) = kept ]\n\
         RUN --mount=type=cache,target=/d,id=/c,ro [ $(cat /d/x) = kept ] && ! touch /d/y\n\
         RUN --mount=type=cache,target=/d [ ! -e /d/x ]\n\
         RUN --mount=type=cache,target=/d --mount=type=cache,target=/e,id=/d touch /d/both && [ -e /e/both ]\n\
         RUN --mount=type=cache,target=/e,id=/d,sharing=locked --mount=type=cache,target=/d [ -e /d/both ]\n\
         WORKDIR /w\nRUN --mount=type=cache,target=rel touch rel/r\n\
         WORKDIR /v\nRUN --mount=type=cache,target=./rel [ -e /v/rel/r ]\n",
    );
    assert_eq!(
        wharf.run(&["run", "--rm", "app", "sh", "-c", "ls / | grep -x [cde]; true"]).success().text(),
        ""
    );
    check(
        &wharf,
        &["--build-arg", "X=1"],
        "ARG X\nRUN --mount=type=cache,target=/c [ $(cat /c/x) = kept ]\n",
    );
    let space = ["--build-arg", "BUILDKIT_CACHE_MOUNT_NS=mine"];
    check(&wharf, &space, "RUN --mount=type=cache,target=/c [ ! -e /c/x ]\n");
}

#[test]
fn what_a_cache_holds_is_in_no_key() {
    let Some(wharf) = wharf() else { return };
    let line = "RUN --mount=type=cache,target=/c ls /c";
    check(&wharf, &[], line).steps().check_ran(&[line]);
    check(&wharf, &[], "RUN --mount=type=cache,target=/c touch /c/new");
    check(&wharf, &[], line).steps().check_ran(&[]);
}

#[test]
fn caches_begin_as_they_are_asked_to() {
    let Some(wharf) = wharf() else { return };
    wharf.file("seed/f", "seed");
    let lines = "RUN --mount=type=cache,target=/c,uid=1001,gid=1002,mode=0751 [ \"$(stat -c '%u %g %f' /c)\" = '1001 1002 41e9' ]\n\
         RUN --mount=type=cache,target=/c [ \"$(stat -c '%u %g %a' /c)\" = '0 0 755' ]\n\
         USER nobody\nRUN --mount=type=cache,target=/c,uid=65534 touch /c/mine\n\
         FROM busybox AS seed\nRUN mkdir -p /s/sub && echo seed >/s/sub/f && chown 5:6 /s/sub/f\n\
         FROM busybox\n\
         RUN --mount=type=cache,target=/c,from=seed,source=s [ \"$(stat -c '%u %g' /c/sub/f)\" = '5 6' ] && echo more >>/c/sub/f\n\
         RUN --mount=type=cache,target=/c,from=seed,source=/s/sub [ \"$(xargs </c/f)\" = 'seed more' ]\n";
    check(&wharf, &[], lines);
}

/// A cache is writable by every step that names it: what one puts there must not lead another out of it.
#[test]
fn the_source_of_a_cache_cannot_lead_out_of_it() {
    let Some(wharf) = wharf() else { return };
    let outside = wharf.path("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("host"), "").unwrap();
    let path = outside.display().to_string();
    let depth = "../".repeat(40);
    check(
        &wharf,
        &[],
        &format!(
            "RUN --mount=type=cache,target=/c ln -s {path} /c/evil && ln -s {depth}{path} /c/up && mkdir /c/in\n"
        ),
    );
    for source in ["evil", "up", "in/../evil", &format!("{depth}{path}"), &path] {
        let line = format!(
            "FROM busybox\nRUN --mount=type=cache,id=/c,target=/d,source={source} ls /d; touch /d/x\n"
        );
        wharf.dockerfile(&line).build(&[]).fails_with(1, &["the cache \"/c\" holds no"]);
    }
    check(&wharf, &[], "RUN --mount=type=cache,id=/c,target=/d,source=in touch /d/x\n");
    check(&wharf, &[], "RUN --mount=type=cache,target=/c [ -e /c/in/x ]\n");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
}

#[test]
fn no_cache_begins_caches_anew_once_in_a_build() {
    let Some(wharf) = wharf() else { return };
    let lines = "ARG FOO\n\
                 RUN --mount=type=cache,target=/c,mode=0773 touch /c/$FOO && ls /c | wc -l >/out\n\
                 RUN --mount=type=cache,target=/c,mode=0773 touch /c/$FOO.second && ls /c | wc -l >>/out\n";
    let build = |foo: &str, more: &[&str]| {
        let foo = format!("FOO={foo}");
        let arguments = [&["--build-arg", foo.as_str(), "-o", "out"], more].concat();
        check(&wharf, &arguments, lines);
        fs::read_to_string(wharf.path("out/out")).unwrap().replace('\n', " ")
    };
    assert_eq!(build("abc", &[]), "1 2 ");
    assert_eq!(build("123", &["--no-cache"]), "1 2 ");
    // What was begun anew is what later builds go on with.
    assert_eq!(build("456", &[]), "3 4 ");
}

/// Builds these lines with N = 1 … `count` at the same time, all on one store.
#[track_caller]
fn at_once(wharf: &Wharf, count: usize, lines: &str) {
    wharf.dockerfile(&format!("FROM busybox\nARG N\n{lines}"));
    thread::scope(|scope| {
        let builds: Vec<_> = (1..=count)
            .map(|number| {
                let number = format!("N={number}");
                scope.spawn(move || Outcome::of(wharf.build_command("store", &["--build-arg", &number])))
            })
            .collect();
        for build in builds {
            build.join().unwrap().success();
        }
    });
    assert_eq!(wharf.leftovers("store"), Vec::<String>::new());
}

/// Each waits (10 s at most) until all of `count` have come to the same place of a shared cache.
fn meet(count: usize) -> String {
    format!(
        "touch /meet/$N && i=0 && until [ $(ls /meet | wc -l) -ge {count} ]; do i=$((i+1)); [ $i -lt 500 ] || exit 9; sleep 0.02; done"
    )
}

#[test]
fn shared_caches_are_used_at_once() {
    let Some(wharf) = wharf() else { return };
    at_once(&wharf, 3, &format!("RUN --mount=type=cache,target=/meet {}\n", meet(3)));
}

#[test]
fn private_caches_are_used_by_one_step_each() {
    let Some(wharf) = wharf() else { return };
    let meet = meet(3);
    at_once(
        &wharf,
        3,
        &format!(
            "RUN --mount=type=cache,target=/meet --mount=type=cache,target=/p,sharing=private \
             touch /p/$N && {meet} && [ $(ls /p) = $N ]\n"
        ),
    );
    check(&wharf, &[], "RUN --mount=type=cache,target=/p,sharing=private [ $(ls /p | wc -l) = 1 ]\n");
}

#[test]
fn locked_caches_are_used_one_after_the_other() {
    let Some(wharf) = wharf() else { return };
    let work = "mkdir /a/busy /b/busy && echo $N >>/a/log && sleep 0.2 && rmdir /a/busy /b/busy";
    // In whatever order they are named, nobody waits in a circle.
    at_once(
        &wharf,
        3,
        &format!(
            "RUN --mount=type=cache,target=/a,sharing=locked --mount=type=cache,target=/b,sharing=locked {work}\n\
             RUN --mount=type=cache,target=/b,sharing=locked --mount=type=cache,target=/a,sharing=locked {work}; exit $?\n"
        ),
    );
    check(&wharf, &[], "RUN --mount=type=cache,target=/a [ $(cat /a/log | wc -l) = 6 ]\n");
}

#[test]
fn stages_of_one_build_share_and_lock_too() {
    let Some(wharf) = wharf() else { return };
    wharf.dockerfile(
        "FROM busybox AS one\nRUN --mount=type=cache,target=/c,sharing=locked mkdir /c/busy && sleep 0.2 && rmdir /c/busy && touch /1\n\
         FROM busybox AS two\nRUN --mount=type=cache,target=/c,sharing=locked mkdir /c/busy && sleep 0.2 && rmdir /c/busy && touch /2\n\
         FROM busybox\nCOPY --from=one /1 /\nCOPY --from=two /2 /\n",
    );
    wharf.build(&[]).success();
}

#[test]
fn a_killed_build_leaves_no_lock_and_no_mount() {
    let Some(wharf) = wharf() else { return };
    let mark = wharf.path("").display().to_string();
    wharf.file("secret", "x").dockerfile(
        "FROM busybox\nARG MARK\n\
         RUN --mount=type=cache,target=/c,sharing=locked --mount=type=tmpfs,target=/t --mount=target=/ctx \
         --mount=type=secret,id=s --mount=from=busybox,target=/b,rw touch /c/here; echo ready; sleep 1000\n",
    );
    let argument = format!("MARK={mark}");
    let arguments = ["--secret", "id=s,src=context/secret", "--build-arg", &argument];
    let mut child = wharf.build_command("store", &arguments).spawn().unwrap();
    let seen = wharf.path("store/mounts");
    wait_until("the step runs", || {
        let instances = fs::read_dir(&seen).into_iter().flatten().flatten();
        instances.filter(|instance| instance.path().join("fs/here").exists()).count() == 1
    });
    child.kill().unwrap();
    child.wait().unwrap();
    wait_until("its processes are gone", || processes(&mark).is_empty());
    check(&wharf, &[], "RUN --mount=type=cache,target=/c,sharing=locked [ -e /c/here ]\n");
    assert_eq!(wharf.leftovers("store"), Vec::<String>::new());
    assert_eq!(fs::read_dir(&seen).unwrap().count(), 1);
}
