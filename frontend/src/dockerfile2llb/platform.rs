//! Platform specifiers: `os/arch[/variant]`, `os(version)/arch`, `arch` or `os` alone; normalised as containerd does.

use wharf_solver::llb::Platform;

const SYSTEMS: &[&str] = &[
    "aix",
    "android",
    "darwin",
    "dragonfly",
    "freebsd",
    "illumos",
    "ios",
    "js",
    "linux",
    "netbsd",
    "openbsd",
    "plan9",
    "solaris",
    "wasip1",
    "windows",
];

const ARCHITECTURES: &[&str] = &[
    "386",
    "amd64",
    "amd64p32",
    "arm",
    "arm64",
    "arm64be",
    "armbe",
    "loong64",
    "mips",
    "mips64",
    "mips64le",
    "mips64p32",
    "mips64p32le",
    "mipsle",
    "ppc",
    "ppc64",
    "ppc64le",
    "riscv",
    "riscv64",
    "s390",
    "s390x",
    "sparc",
    "sparc64",
    "wasm",
];

/// Parses and normalises a specifier; what is left out comes from `default`.
pub fn parse(specifier: &str, default: &Platform) -> Result<Platform, String> {
    let invalid = |why: &str| Err(format!("{specifier:?} is an invalid platform: {why}"));
    let parts: Vec<&str> = specifier.split('/').collect();
    let (system, os_version) = match parts[0].split_once('(') {
        Some((system, rest)) => match rest.strip_suffix(')') {
            Some(version) => (system, version),
            None => return invalid("the version's `)` is missing"),
        },
        None => (parts[0], ""),
    };
    let is_word =
        |word: &str| !word.is_empty() && word.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c));
    if !is_word(system) || !parts[1..].iter().all(|part| is_word(part)) {
        return invalid("a component is empty or has a character other than letters, digits and `_.-`");
    }
    let os = normalise_system(system);
    match parts[1..] {
        [] if SYSTEMS.contains(&os.as_str()) => {
            Ok(Platform { os, os_version: os_version.to_owned(), ..default.clone() })
        }
        [] => {
            let (architecture, variant) = normalise_architecture(system, "");
            if !ARCHITECTURES.contains(&architecture.as_str()) {
                return invalid("unknown operating system or architecture");
            }
            Ok(Platform { architecture, variant, ..default.clone() })
        }
        [architecture] => Ok(platform(os, os_version, architecture, "")),
        [architecture, variant] => Ok(platform(os, os_version, architecture, variant)),
        _ => invalid("it has more than three components"),
    }
}

/// One spelling for each platform; default variants (`arm64/v8`, `amd64/v1`) are left out.
pub fn normalise(platform: &Platform) -> Platform {
    let (architecture, variant) = normalise_architecture(&platform.architecture, &platform.variant);
    Platform {
        os: normalise_system(&platform.os),
        architecture,
        variant,
        os_version: platform.os_version.clone(),
    }
}

/// With the version of the operating system: `windows(10.0.17763)/amd64`.
pub(super) fn format_all(platform: &Platform) -> String {
    if platform.os_version.is_empty() {
        return platform.to_string();
    }
    let bare = Platform { os: format!("{}({})", platform.os, platform.os_version), ..platform.clone() };
    bare.to_string()
}

/// What is said about cross-compiling in step names: `->arm64` when the steps build for something else.
pub(super) fn arrow(runs_on: &Platform, target: &Platform) -> String {
    if target.os != runs_on.os {
        format!("->{target}")
    } else if target.architecture != runs_on.architecture {
        let target = target.to_string();
        format!("->{}", target.split_once('/').map_or(target.as_str(), |(_, rest)| rest))
    } else {
        String::new()
    }
}

fn platform(os: String, os_version: &str, architecture: &str, variant: &str) -> Platform {
    let (architecture, variant) = normalise_architecture(architecture, variant);
    Platform { os, architecture, variant, os_version: os_version.to_owned() }
}

fn normalise_system(system: &str) -> String {
    match system.to_lowercase().as_str() {
        "macos" => "darwin".to_owned(),
        other => other.to_owned(),
    }
}

fn normalise_architecture(architecture: &str, variant: &str) -> (String, String) {
    let (architecture, variant) = (architecture.to_lowercase(), variant.to_lowercase());
    let (architecture, variant) = match (architecture.as_str(), variant.as_str()) {
        ("i386", _) => ("386", ""),
        ("x86_64" | "x86-64" | "amd64", "v1") => ("amd64", ""),
        ("x86_64" | "x86-64", variant) => ("amd64", variant),
        ("aarch64" | "arm64", "8" | "v8" | "8.0" | "v8.0") => ("arm64", ""),
        ("aarch64" | "arm64", "9" | "9.0" | "v9.0") => ("arm64", "v9"),
        ("aarch64", variant) => ("arm64", variant),
        ("armhf", _) => ("arm", "v7"),
        ("armel", _) => ("arm", "v6"),
        ("arm", "" | "7") => ("arm", "v7"),
        ("arm", "5") => ("arm", "v5"),
        ("arm", "6") => ("arm", "v6"),
        ("arm", "8") => ("arm", "v8"),
        (architecture, variant) => (architecture, variant),
    };
    (architecture.to_owned(), variant.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn specifiers_are_normalised() {
        let default =
            Platform { os: "linux".to_owned(), architecture: "amd64".to_owned(), ..Platform::default() };
        for (specifier, expected) in [
            ("linux/amd64", "linux/amd64"),
            ("Linux/X86_64", "linux/amd64"),
            ("linux/amd64/v1", "linux/amd64"),
            ("linux/amd64/v3", "linux/amd64/v3"),
            ("linux/x86-64/v1", "linux/amd64"),
            ("linux/x86_64/V2", "linux/amd64/v2"),
            ("linux/aarch64", "linux/arm64"),
            ("linux/arm64/v8", "linux/arm64"),
            ("linux/aarch64/8", "linux/arm64"),
            ("linux/arm64/v8.0", "linux/arm64"),
            ("linux/arm64/9.0", "linux/arm64/v9"),
            ("linux/arm64/v9.0", "linux/arm64/v9"),
            ("linux/arm64/v9.2", "linux/arm64/v9.2"),
            ("linux/arm/5", "linux/arm/v5"),
            ("linux/arm/6", "linux/arm/v6"),
            ("linux/arm/v7", "linux/arm/v7"),
            ("linux/arm/8", "linux/arm/v8"),
            ("linux/armhf/v6", "linux/arm/v7"),
            ("linux/i386/v1", "linux/386"),
            ("linux/riscv64", "linux/riscv64"),
            ("aarch64", "linux/arm64"),
            ("linux", "linux/amd64"),
            ("linux/arm", "linux/arm/v7"),
            ("linux/armel", "linux/arm/v6"),
            ("armhf", "linux/arm/v7"),
            ("i386", "linux/386"),
            ("windows", "windows/amd64"),
            ("macos/arm64", "darwin/arm64"),
            ("windows(10.0.17763)/amd64", "windows(10.0.17763)/amd64"),
        ] {
            assert_eq!(format_all(&parse(specifier, &default).expect(specifier)), expected, "{specifier}");
        }
        for specifier in
            ["", "/", "linux/", "linux/amd64/v1/x", "nothing", "linux(1/amd64", "li nux/amd64", "$x/y"]
        {
            parse(specifier, &default).expect_err(specifier);
        }
    }
}
