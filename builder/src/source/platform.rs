//! Which image of an index runs on a platform: names made canonical, then the wanted platform and what it can also
//! run, best first.

use wharf_solver::llb::Platform;

use crate::registry::manifest::{Descriptor, DescriptorPlatform};

/// Highest version number that is stepped down from: above what exists, low enough to list.
const VERSION_MAX: u32 = 16;

/// The canonical form of a platform: lowercase, common aliases replaced, default variants left out.
pub fn normalize(platform: &Platform) -> Platform {
    let os = match &*platform.os.to_lowercase() {
        "macos" => "darwin".to_owned(),
        os => os.to_owned(),
    };
    let (architecture, variant) = (platform.architecture.to_lowercase(), platform.variant.to_lowercase());
    let (architecture, variant) = match (&*architecture, &*variant) {
        ("amd64" | "x86_64" | "x86-64", "" | "v1") => ("amd64", ""),
        ("amd64" | "x86_64" | "x86-64", variant) => ("amd64", variant),
        ("arm64" | "aarch64", "" | "8" | "v8" | "v8.0") => ("arm64", ""),
        ("arm64" | "aarch64", "9" | "9.0" | "v9.0") => ("arm64", "v9"),
        ("arm64" | "aarch64", variant) => ("arm64", variant),
        ("i386", _) => ("386", ""),
        ("armhf", _) | ("arm", "" | "7") => ("arm", "v7"),
        ("armel", _) | ("arm", "6") => ("arm", "v6"),
        ("arm", "5") => ("arm", "v5"),
        ("arm", "8") => ("arm", "v8"),
        (architecture, variant) => (architecture, variant),
    };
    Platform {
        os,
        architecture: architecture.to_owned(),
        variant: variant.to_owned(),
        os_version: platform.os_version.clone(),
    }
}

/// The entry of an index that suits `wanted` best. An index whose only image does not say what it runs on is taken at
/// its word: there is nothing to choose.
pub(crate) fn choose<'a>(entries: &'a [Descriptor], wanted: &Platform) -> Option<&'a Descriptor> {
    let wanted = normalize(wanted);
    let images = || entries.iter().filter(|entry| !entry.is_attestation());
    let fits = |entry: &Descriptor, (architecture, variant): &(&str, String)| {
        entry.platform.as_ref().map(platform_of).is_some_and(|platform| {
            platform.os == wanted.os
                && platform.architecture == *architecture
                && platform.variant == *variant
                && same_build(&platform.os_version, &wanted.os_version)
        })
    };
    let stated = runnable(&wanted).into_iter().find_map(|kind| images().find(|entry| fits(entry, &kind)));
    stated.or_else(|| match images().collect::<Vec<_>>()[..] {
        [only]
            if only.platform.as_ref().is_none_or(|platform| *platform == DescriptorPlatform::default()) =>
        {
            Some(only)
        }
        _ => None,
    })
}

/// Whether an image that says it is for `platform` runs where `wanted` is asked for. One that says nothing may.
pub(crate) fn suits(platform: &Platform, wanted: &Platform) -> bool {
    if platform.os.is_empty() || platform.architecture.is_empty() {
        return true;
    }
    let (platform, wanted) = (normalize(platform), normalize(wanted));
    let is_kind = |(architecture, variant): (&str, String)| {
        platform.architecture == architecture && platform.variant == variant
    };
    platform.os == wanted.os
        && same_build(&platform.os_version, &wanted.os_version)
        && runnable(&wanted).into_iter().any(is_kind)
}

/// The platforms an index has images for, in its order.
pub(crate) fn available(entries: &[Descriptor]) -> Vec<String> {
    let mut names = Vec::new();
    for platform in entries.iter().filter(|entry| !entry.is_attestation()).filter_map(|e| e.platform.as_ref())
    {
        let name = platform_of(platform).to_string();
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

fn platform_of(platform: &DescriptorPlatform) -> Platform {
    normalize(&Platform {
        os: platform.os.clone(),
        architecture: platform.architecture.clone(),
        variant: platform.variant.clone(),
        os_version: platform.os_version.clone(),
    })
}

/// Architectures and variants that run on the (canonical) platform `wanted`, best first.
fn runnable(wanted: &Platform) -> Vec<(&str, String)> {
    let variant = &*wanted.variant;
    let (major, minor) = version(variant);
    match &*wanted.architecture {
        "amd64" => {
            let mut kinds: Vec<_> = (2..=major).rev().map(|v| ("amd64", format!("v{v}"))).collect();
            kinds.extend([("amd64", String::new()), ("386", String::new())]);
            kinds
        }
        "arm64" => {
            let minors =
                |major, highest: u32| (1..=highest).rev().map(move |m| ("arm64", format!("v{major}.{m}")));
            let mut kinds = Vec::new();
            // Armv9.n has all of Armv8.(n+5).
            let v8_minor = if major >= 9 {
                kinds.extend(minors(9, minor));
                kinds.push(("arm64", "v9".to_owned()));
                (minor + 5).min(9)
            } else {
                minor
            };
            kinds.extend(minors(8, v8_minor));
            kinds.push(("arm64", String::new()));
            kinds.extend((5..=8).rev().map(|v| ("arm", format!("v{v}"))));
            kinds
        }
        "arm" if major >= 5 => (5..=major).rev().map(|v| ("arm", format!("v{v}"))).collect(),
        architecture => vec![(architecture, variant.to_owned())],
    }
}

/// The numbers of `v9.2`; zero where there is none.
fn version(variant: &str) -> (u32, u32) {
    let text = variant.strip_prefix('v').unwrap_or_default();
    let (major, minor) = text.split_once('.').unwrap_or((text, ""));
    let number = |text: &str| text.parse::<u32>().unwrap_or(0).min(VERSION_MAX);
    (number(major), number(minor))
}

/// Whether an image for Windows build `image` runs on `wanted`: the same but for the revision, its last number.
fn same_build(image: &str, wanted: &str) -> bool {
    let build = |version: &str| version.split('.').take(3).map(str::to_owned).collect::<Vec<_>>();
    image.is_empty() || wanted.is_empty() || build(image) == build(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform(text: &str) -> Platform {
        let mut parts = text.splitn(3, '/').map(str::to_owned);
        let mut next = || parts.next().unwrap_or_default();
        Platform { os: next(), architecture: next(), variant: next(), os_version: String::new() }
    }

    #[test]
    fn names_become_canonical() {
        for (text, expected) in [
            ("Linux/AMD64", "linux/amd64"),
            ("linux/x86_64/v1", "linux/amd64"),
            ("linux/x86-64/v3", "linux/amd64/v3"),
            ("linux/aarch64/v8", "linux/arm64"),
            ("linux/arm64/9.0", "linux/arm64/v9"),
            ("linux/i386", "linux/386"),
            ("linux/armhf", "linux/arm/v7"),
            ("linux/armel", "linux/arm/v6"),
            ("linux/arm", "linux/arm/v7"),
            ("macos/arm64", "darwin/arm64"),
            ("linux/riscv64", "linux/riscv64"),
        ] {
            assert_eq!(normalize(&platform(text)).to_string(), expected);
        }
    }

    /// `index` lists platforms; `-` has none, `!` is an attestation.
    #[track_caller]
    fn check(index: &str, wanted: &str, expected: Option<&str>) {
        let entries: Vec<Descriptor> = index
            .split_whitespace()
            .map(|name| {
                let json = |platform: &str, notes: &str| {
                    let zeros = "0".repeat(64);
                    format!(r#"{{"mediaType":"{name}","digest":"sha256:{zeros}","size":1{platform}{notes}}}"#)
                };
                let text = match name {
                    "-" => json("", ""),
                    "!" => json(
                        r#","platform":{"os":"unknown","architecture":"unknown"}"#,
                        r#","annotations":{"vnd.docker.reference.type":"attestation-manifest"}"#,
                    ),
                    name => {
                        let p = platform(name);
                        let fields = (p.os, p.architecture, p.variant);
                        json(
                            &format!(
                                r#","platform":{{"os":"{}","architecture":"{}","variant":"{}"}}"#,
                                fields.0, fields.1, fields.2
                            ),
                            "",
                        )
                    }
                };
                serde_json::from_str(&text).unwrap()
            })
            .collect();
        assert_eq!(choose(&entries, &platform(wanted)).map(|entry| &*entry.media_type), expected);
    }

    #[test]
    fn the_best_platform_is_chosen() {
        let many = "linux/386 linux/amd64 linux/arm/v5 linux/arm/v7 linux/arm64/v8 ! linux/amd64/v2";
        check(many, "linux/amd64", Some("linux/amd64"));
        check(many, "linux/amd64/v3", Some("linux/amd64/v2"));
        check(many, "linux/arm64", Some("linux/arm64/v8"));
        check(many, "linux/arm64/v9.2", Some("linux/arm64/v8"));
        check(many, "linux/arm", Some("linux/arm/v7"));
        check(many, "linux/arm/v6", Some("linux/arm/v5"));
        check(many, "linux/386", Some("linux/386"));
        check(many, "linux/riscv64", None);
        check(many, "windows/amd64", None);
        check("linux/386", "linux/amd64", Some("linux/386"));
        check("linux/amd64", "linux/386", None);
        check("linux/arm/v7", "linux/arm64", Some("linux/arm/v7"));
        check("linux/arm64/v8.4 linux/arm64", "linux/arm64/v9", Some("linux/arm64/v8.4"));
        check("linux/arm64/v9", "linux/arm64", None);
        check("linux/amd64/v4000000000", "linux/amd64/v4000000000", None);
    }

    #[test]
    fn a_lone_image_without_platform_is_taken() {
        check("-", "linux/amd64", Some("-"));
        check("- !", "linux/amd64", Some("-"));
        check("- -", "linux/amd64", None);
        check("!", "linux/amd64", None);
        check("", "linux/amd64", None);
    }
}
