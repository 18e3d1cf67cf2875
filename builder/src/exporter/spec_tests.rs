//! What `-o` says.

use super::*;

fn file(path: &str) -> Destination {
    Destination::File(path.into())
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

#[test]
fn specs_say_what_docker_build_understands() {
    use Output as O;
    let tags = names(&["tag"]);
    let plain = FilesSpec::default();
    let named = |list: &[&str]| ImageSpec { names: names(list), form: ImageForm::default() };
    let tagged = || named(&["tag"]);
    let image = |image, push| O::Image(ImageOutput { push, ..ImageOutput::stored(image) });
    for (spec, expected) in [
        ("out", O::Local(plain, "out".into(), LocalMode::Copy)),
        ("a=b", O::Local(plain, "a=b".into(), LocalMode::Copy)),
        ("-", O::Tar(plain, Destination::Stdout)),
        ("type=local,dest=out/dir", O::Local(plain, "out/dir".into(), LocalMode::Copy)),
        ("type=local,dest=o,mode=delete", O::Local(plain, "o".into(), LocalMode::Delete)),
        ("type=tar", O::Tar(plain, Destination::Stdout)),
        ("type=tar,dest=-", O::Tar(plain, Destination::Stdout)),
        (
            "type=tar,dest=x.tar,platform-split=false,source-date-epoch=7",
            O::Tar(
                FilesSpec { split: Some(false), times: Times { epoch: Some(7), rewrite: None } },
                file("x.tar"),
            ),
        ),
        ("dest=x.tar,type=oci", O::OciArchive(tagged(), file("x.tar"))),
        ("type=oci,dest=d,tar=false", O::OciDirectory(tagged(), "d".into())),
        ("type=oci,dest=d,tar=1", O::OciArchive(tagged(), file("d"))),
        ("type=docker", O::DockerArchive(tagged(), Destination::Stdout)),
        ("type=docker,name=x:1,dest=d", O::DockerArchive(named(&["x:1"]), file("d"))),
        ("type=image", image(tagged(), Push::No)),
        ("type=image,push=true", image(tagged(), Push::ByName)),
        ("type=image,push=", image(tagged(), Push::ByName)),
        ("type=registry", image(tagged(), Push::ByName)),
        ("type=registry,push=false", image(tagged(), Push::No)),
        ("type=registry,push-by-digest=true,name=r.io/a", image(named(&["r.io/a"]), Push::ByDigest)),
        (r#"type=image,"name=a, b""#, image(named(&["a", "b"]), Push::No)),
        (r#"TYPE=tar,"dest=say ""hi"",x""#, O::Tar(plain, file("say \"hi\",x"))),
        ("type=cacheonly", O::CacheOnly),
    ] {
        assert_eq!(Output::parse(spec, &tags), Ok(expected), "{spec}");
    }
}

#[test]
fn wrong_specs_say_why() {
    for (spec, message) in [
        (
            "",
            "output ``: `type=` is missing; it is one of image, registry, oci, docker, tar, local, cacheonly",
        ),
        (
            "dest=x,name=y",
            "output `dest=x,name=y`: `type=` is missing; it is one of image, registry, oci, docker, tar, local, cacheonly",
        ),
        (
            "type=locl",
            "output `type=locl`: there is no type `locl`; it is one of image, registry, oci, docker, tar, local, cacheonly \
             (did you mean `local`?)",
        ),
        (
            "type=vhd,dest=x",
            "output `type=vhd,dest=x`: there is no type `vhd`; it is one of image, registry, oci, docker, tar, \
             local, cacheonly",
        ),
        ("type=oci,dst=x", "output `type=oci,dst=x`: type `oci` has no key `dst` (did you mean `dest`?)"),
        ("type=local,push=true", "output `type=local,push=true`: type `local` has no key `push`"),
        ("type=tar,dest", "output `type=tar,dest`: `dest` is not KEY=VALUE"),
        ("type=tar,dest=", "output `type=tar,dest=`: `dest=` is empty"),
        ("type=tar,", "output `type=tar,`: `` is not KEY=VALUE"),
        ("type=tar,type=oci", "output `type=tar,type=oci`: key `type` is given twice"),
        ("type=image,push=yes", "output `type=image,push=yes`: `push=yes` is neither true nor false"),
        ("type=registry", "output `type=registry`: `push=true` needs `name=`, or a tag"),
        ("type=local", "output `type=local`: type `local` needs `dest=`, and it cannot be standard output"),
        (
            "type=oci,tar=false,dest=-",
            "output `type=oci,tar=false,dest=-`: type `oci` needs `dest=`, and it cannot be standard output",
        ),
        ("type=tar,\"dest=x", "output `type=tar,\"dest=x`: a quote is not closed"),
        (
            "type=tar,\"dest=x\"y",
            "output `type=tar,\"dest=x\"y`: something other than a comma follows a closing quote",
        ),
        (
            "type=tar,de\"st=x",
            "output `type=tar,de\"st=x`: a quote stands inside a field that does not begin with one",
        ),
    ] {
        assert_eq!(Output::parse(spec, &[]).unwrap_err().to_string(), message, "{spec}");
    }
}

/// The form of the image that `attributes` ask for, in short.
fn form(attributes: &str) -> String {
    let spec = format!("type=image,{attributes}");
    let output = Output::parse(&spec, &[]).map_err(|error| error.to_string().replace(&spec, "…"));
    let form = match output {
        Ok(Output::Image(image)) => image.image.form,
        Ok(other) => panic!("{other:?}"),
        Err(message) => return message,
    };
    let key = form.layers(Some(9)).variant.key();
    let annotations = form.annotations.0.iter().map(|it| format!(" {} {}={}", it.target, it.key, it.value));
    let force = if form.force_compression { " force" } else { "" };
    format!("{key}{force} {:?}{}", form.types, annotations.collect::<String>())
}

#[test]
fn attributes_say_what_an_image_is_like() {
    for (attributes, expected) in [
        ("name=a", "gzip-4.libdeflate-1.26.pieces-2@9 Oci"),
        ("compression=gzip,compression-level=4", "gzip-4.libdeflate-1.26.pieces-2@9 Oci"),
        ("compression=estargz,compression-level=9", "estargz-9.libdeflate-1.26@9 Oci"),
        ("compression=zstd,compression-level=0", "zstd-3.libzstd-1.5.7.pieces-2@9 Oci"),
        ("compression=uncompressed,force-compression=true", "none@9 force Oci"),
        ("oci-mediatypes=false", "gzip-4.libdeflate-1.26.pieces-2@9 Docker"),
        ("rewrite-timestamp=false", "gzip-4.libdeflate-1.26.pieces-2 Oci"),
        ("source-date-epoch=5,rewrite-timestamp=true", "gzip-4.libdeflate-1.26.pieces-2@5 Oci"),
        (
            "annotation.A.b=c,annotation-index.d=e=f",
            "gzip-4.libdeflate-1.26.pieces-2@9 Oci manifest A.b=c index d=e=f",
        ),
        ("prefer-nondist-layers=false", "gzip-4.libdeflate-1.26.pieces-2@9 Oci"),
        (
            "prefer-nondist-layers=true",
            "output `…`: `prefer-nondist-layers`: there are none: base images with layers that nobody may distribute are \
             refused",
        ),
        ("name=", "output `…`: a name in `name=` is empty"),
        ("\"name=a,\"", "output `…`: a name in `name=` is empty"),
        ("compression=xz", "output `…`: `compression=xz` is not one of gzip, zstd, estargz, uncompressed"),
        ("compression-level=10", "output `…`: `compression-level=10` is not a number from 0 to 9"),
        (
            "compression=uncompressed,compression-level=1",
            "output `…`: what is not compressed has no `compression-level`",
        ),
        (
            "compression=zstd,oci-mediatypes=false",
            "output `…`: Docker's media types (`oci-mediatypes=false`) have no zstd",
        ),
        ("source-date-epoch=-1", "output `…`: `source-date-epoch=-1` is not a number of seconds since 1970"),
        ("push-by-digest=true", "output `…`: `push-by-digest=true` needs `push=true`"),
        (
            "name=r:5/a:v,push=true,push-by-digest=true",
            "output `…`: `r:5/a:v` has a tag or a digest, and is to be pushed by digest alone",
        ),
        ("oci-artifact=true", "output `…`: `oci-artifact`: wharf makes no attestations"),
        (
            "annotation-x.a=b",
            "output `…`: `x` is not manifest, index, manifest-descriptor or index-descriptor",
        ),
        ("annotations=b", "output `…`: type `image` has no key `annotations`"),
        (
            "registry.insecure=true",
            "output `…`: `registry.insecure=true` is about a push, and nothing is pushed",
        ),
        (
            "store=false,name-canonical=true",
            "output `…`: `store=false` leaves no names in the store to be made",
        ),
        ("dangling-name-prefix=A B", "output `…`: `dangling-name-prefix=A B` is not the name of an image"),
    ] {
        assert_eq!(form(attributes), expected, "{attributes}");
    }
}
