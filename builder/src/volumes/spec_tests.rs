//! What each form of a mount means, and what is refused.

use super::*;

/// An ask in a line.
fn line(ask: &MountAsk) -> String {
    let kind = match &ask.kind {
        MountKindAsk::Bind { source, create, propagation, non_recursive } => {
            let mut line = format!("bind {}", source.display());
            for (said, word) in [(*create, " create"), (*non_recursive, " flat")] {
                line.push_str(if said { word } else { "" });
            }
            propagation.iter().for_each(|it| line.push_str(&format!(" {it}")));
            line
        }
        MountKindAsk::Volume { name, subpath, no_copy, driver, options, labels } => {
            let mut line = format!("volume {}", name.as_deref().unwrap_or("-"));
            subpath.iter().for_each(|it| line.push_str(&format!(" below {}", it.display())));
            line.push_str(if *no_copy { " nocopy" } else { "" });
            driver.iter().for_each(|it| line.push_str(&format!(" by {it}")));
            options.iter().for_each(|(key, value)| line.push_str(&format!(" {key}={value}")));
            labels.iter().for_each(|(key, value)| line.push_str(&format!(" #{key}={value}")));
            line
        }
        MountKindAsk::Tmpfs { size, mode, options } => {
            let mut line = "tmpfs".to_owned();
            size.iter().for_each(|it| line.push_str(&format!(" {it}")));
            mode.iter().for_each(|it| line.push_str(&format!(" {it:o}")));
            options.iter().for_each(|it| line.push_str(&format!(" {it}")));
            line
        }
    };
    format!("{kind} at {}{}", ask.target.display(), if ask.read_only { " ro" } else { "" })
}

#[track_caller]
fn check(parsed: Result<MountAsk, Failure>, text: &str, expected: &str) {
    let told = match parsed {
        Ok(ask) => line(&ask),
        Err(failure) => {
            assert_eq!(failure.kind, Kind::Usage);
            let why = failure.message.split_once(&format!("{text}: ")).map(|(_, why)| why.to_owned());
            format!("! {}", why.unwrap_or(failure.message))
        }
    };
    if expected.ends_with('…') {
        assert!(told.starts_with(expected.trim_end_matches('…')), "{text}: {told}");
    } else {
        assert_eq!(told, expected, "{text}");
    }
}

#[test]
fn volumes_are_read_as_docker_reads_them() {
    for (text, expected) in [
        ("/data", "volume - at /data"),
        ("db:/data", "volume db at /data"),
        ("db:/data/", "volume db at /data"),
        ("db:/a/../b//c/.", "volume db at /b/c"),
        ("db:/data:ro", "volume db at /data ro"),
        ("db:/data:rw,nocopy", "volume db nocopy at /data"),
        ("db:/data:nocopy,ro,z", "volume db nocopy at /data ro"),
        ("my_app.v-1:/data", "volume my_app.v-1 at /data"),
        ("/srv:/data", "bind /srv create at /data"),
        ("/:/host:ro", "bind / create at /host ro"),
        (".:/src", "bind /here/dir create at /src"),
        ("./a:/src", "bind /here/dir/a create at /src"),
        ("../a:/src", "bind /here/a create at /src"),
        ("/srv:/data:rslave,ro,Z", "bind /srv create rslave at /data ro"),
        ("/srv:/data:cached", "bind /srv create at /data"),
        ("", "! it says no place in the container"),
        (":", "! it says no place in the container"),
        (":/data", "! nothing stands before the colon"),
        ("data", "! `data` is to be a place in the container, and is not absolute"),
        ("db:data", "! `data` is to be a place in the container, and is not absolute"),
        ("db:", "! it says no place in the container"),
        ("/data:ro", "! `ro` is no place in the container, which is to follow the first colon"),
        ("db:/", "! nothing can be mounted over the root of a container"),
        ("db:/a/..", "! nothing can be mounted over the root of a container"),
        ("db:/data:", "! nothing follows the last colon"),
        ("db:/data:rox", "! there is no option `rox`; there are ro, rw,…"),
        ("db:/data:ro,rw", "! ro or rw is said twice"),
        ("db:/data:ro,", "! an option is empty"),
        ("/a:/b:shared,slave", "! a propagation is said twice"),
        ("db:/data:rshared", "! `rshared` is for directories of the host, and this is a volume"),
        ("/srv:/data:nocopy", "! `nocopy` is for volumes, and this is a directory of the host"),
        ("x:/data", "! `x` is no name of a volume:…"),
        ("~/x:/data", "! `~/x` is no name of a volume:…"),
        ("a/b:/data", "! `a/b` is no name of a volume:…"),
        ("_x:/data", "! `_x` is no name of a volume:…"),
        ("größe:/data", "! `größe` is no name of a volume:…"),
        ("a:b:c:d", "! it is [SOURCE:]TARGET[:OPTIONS]"),
    ] {
        check(parse_volume(text, Path::new("/here/dir")), text, expected);
    }
}

#[test]
fn mounts_are_read_as_docker_reads_them() {
    for (text, expected) in [
        ("target=/data", "volume - at /data"),
        ("type=volume,src=db,dst=/data", "volume db at /data"),
        ("source=db,destination=/data,readonly", "volume db at /data ro"),
        ("source=db,target=/data,ro=false", "volume db at /data"),
        ("type=volume,src=db,dst=/d,volume-nocopy,volume-subpath=a/./b", "volume db below a/b nocopy at /d"),
        (
            "type=volume,src=db,dst=/d,volume-driver=local,volume-label=a=b,volume-label=c,volume-opt=type=nfs,\"volume-opt=o=addr=1,rw\"",
            "volume db by local o=addr=1,rw type=nfs #a=b #c= at /d",
        ),
        ("TYPE=Bind,Source=/a:b,Target=/c", "bind /a:b at /c"),
        ("type=bind,src=./x,dst=/c", "bind /here/dir/x at /c"),
        (
            "type=bind,src=/a,dst=/c,bind-propagation=rshared,bind-nonrecursive=true",
            "bind /a flat rshared at /c",
        ),
        ("type=bind,src=/a,dst=/c,bind-recursive=disabled", "bind /a flat at /c"),
        ("type=bind,src=/a,dst=/c,readonly,bind-recursive=readonly", "bind /a at /c ro"),
        ("type=bind,src=/a,dst=/c,bind-create-src", "bind /a create at /c"),
        ("type=bind,src=/a,dst=/c,consistency=cached", "bind /a at /c"),
        ("\"type=bind\",\"src=/a,b\",dst=/c", "bind /a,b at /c"),
        ("type=tmpfs,dst=/t", "tmpfs at /t"),
        ("type=tmpfs,dst=/t,tmpfs-size=64m,tmpfs-mode=1770", "tmpfs 67108864 1770 at /t"),
        ("", "! there is no key ``;…"),
        ("type=volume", "! `target=` is missing"),
        ("type=bind,dst=/c", "! `source=` is missing"),
        ("type=bind,src=a,dst=/c", "! the source `a` is neither absolute nor begins with `./`"),
        ("type=tmpfs,src=a,dst=/c", "! memory has no `source=`"),
        (
            "type=npipe,src=a,dst=/c",
            "! there is no mount of type `npipe` here; there are bind, volume and tmpfs",
        ),
        ("type=image,src=a,dst=/c,image-subpath=b", "! there are no mounts of type image here"),
        ("type=bind,src=/a,dst=c", "! `c` is to be a place in the container, and is not absolute"),
        ("src=a/b,dst=/c", "! `a/b` is no name of a volume:…"),
        ("src=db,dst=/", "! nothing can be mounted over the root of a container"),
        ("src=db,dst=/c,size=3", "! there is no key `size`;…"),
        ("src=db,dst=/c,source", "! `source` needs a value: source=…"),
        ("src=db,dst=/c,readonly=maybe", "! `readonly` is true or false, and not `maybe`"),
        ("src=db,dst=/c,bind-propagation=rshared", "! `bind-propagation` is not for mounts of type volume"),
        ("type=bind,src=/a,dst=/c,volume-nocopy", "! `volume-nocopy` is not for mounts of type bind"),
        ("type=bind,src=/a,dst=/c,bind-propagation=up", "! there is no propagation `up`;…"),
        (
            "type=bind,src=/a,dst=/c,bind-recursive=readonly",
            "! `bind-recursive=readonly` goes with `readonly`",
        ),
        ("type=bind,src=/a,dst=/c,bind-recursive=so", "! `bind-recursive` is enabled, disabled,…"),
        ("type=bind,src=/a,dst=/c,consistency=so", "! there is no consistency `so`;…"),
        ("src=db,dst=/c,volume-subpath=../x", "! `volume-subpath=../x` leads out of the volume"),
        ("src=db,dst=/c,volume-subpath=/x", "! `volume-subpath=/x` is no path below the volume"),
        ("type=tmpfs,dst=/t,tmpfs-size=much", "! `much` is no size, as 64m or 1g is"),
        ("type=tmpfs,dst=/t,tmpfs-mode=9", "! `9` is no mode, as 1777 is"),
        ("type=tmpfs,dst=/t,tmpfs-mode=17777", "! `17777` is no mode, as 1777 is"),
        ("src=db,\"dst=/c", "! a quote is not closed"),
    ] {
        check(parse_mount(text, Path::new("/here/dir")), text, expected);
    }
}

#[test]
fn memory_is_read_as_mount_reads_it() {
    for (text, expected) in [
        ("/run", "tmpfs at /run"),
        ("/run:rw,noexec,nosuid,size=65536k,mode=1770", "tmpfs 67108864 1770 noexec nosuid at /run"),
        ("/run:ro", "tmpfs at /run ro"),
        ("/run:size=10%,uid=5,gid=6,exec", "tmpfs size=10% uid=5 gid=6 exec at /run"),
        ("run", "! `run` is to be a place in the container, and is not absolute"),
        ("", "! it says no place in the container"),
        ("/", "! nothing can be mounted over the root of a container"),
        ("/run:sise=3", "! there is no option `sise=3` of a memory file system"),
        ("/run:size=x", "! `x` is no size, as 64m or 1g is"),
        ("/run:mode=8", "! `8` is no mode, as 1777 is"),
        ("/run:uid=", "! there is no option `uid=` of a memory file system"),
        ("/run:,", "! there is no option `` of a memory file system"),
    ] {
        check(parse_tmpfs(text), text, expected);
    }
}

#[test]
fn sizes_of_memory_are_powers_of_1024() {
    for (text, size) in [
        ("10", Some(10)),
        ("10b", Some(10)),
        ("3k", Some(3072)),
        ("3KB", Some(3072)),
        ("1.5g", Some(3 << 29)),
        ("64MiB", Some(64 << 20)),
        ("1 g", Some(1 << 30)),
        ("18446744073709551615", Some(u64::MAX)),
        ("18446744073709551615k", None),
        ("", None),
        ("g", None),
        ("-1", None),
        ("1x", None),
    ] {
        assert_eq!(memory_size(text), size, "{text}");
    }
}
