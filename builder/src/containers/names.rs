//! Names of containers: what one may be, and made-up ones.

use std::io;

/// Bytes of a name at most: it is the name of a file.
const NAME_BYTES_MAX: usize = 255;

/// Attempts after which made-up names get a number.
const PLAIN_ATTEMPTS: u32 = 8;

const ADJECTIVES: [&str; 64] = [
    "able", "amber", "ancient", "bold", "brave", "breezy", "bright", "brisk", "calm", "careful", "cheerful",
    "clear", "clever", "coastal", "curious", "daring", "deep", "eager", "early", "easy", "fair", "faithful",
    "fearless", "fine", "fresh", "gentle", "glad", "golden", "grand", "handy", "happy", "hardy", "honest",
    "humble", "keen", "kind", "lively", "loyal", "lucky", "mellow", "merry", "mighty", "neat", "nimble",
    "patient", "placid", "proud", "quick", "quiet", "ready", "sandy", "serene", "sharp", "silver", "smooth",
    "steady", "stout", "sunny", "swift", "tidal", "trusty", "vivid", "warm", "wise",
];

const NOUNS: [&str; 64] = [
    "albatross",
    "anchor",
    "atoll",
    "barge",
    "barnacle",
    "bay",
    "beacon",
    "bollard",
    "bosun",
    "bow",
    "breakwater",
    "buoy",
    "cape",
    "capstan",
    "captain",
    "clipper",
    "compass",
    "coral",
    "cove",
    "current",
    "cutter",
    "dinghy",
    "dolphin",
    "ferry",
    "fjord",
    "fleet",
    "frigate",
    "galleon",
    "gull",
    "harbor",
    "heron",
    "hull",
    "island",
    "jetty",
    "keel",
    "kelp",
    "lagoon",
    "lantern",
    "lighthouse",
    "mast",
    "mooring",
    "navigator",
    "oar",
    "osprey",
    "otter",
    "pelican",
    "pier",
    "pilot",
    "porpoise",
    "quay",
    "reef",
    "rudder",
    "sail",
    "schooner",
    "seal",
    "sextant",
    "skipper",
    "sloop",
    "starfish",
    "strait",
    "tern",
    "tide",
    "voyage",
    "whale",
];

/// Whether a container can be called so: `[a-zA-Z0-9][a-zA-Z0-9_.-]+`.
pub fn is_name(name: &str) -> bool {
    let bytes = name.as_bytes();
    (2..=NAME_BYTES_MAX).contains(&bytes.len())
        && bytes[0].is_ascii_alphanumeric()
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(byte))
}

/// A made-up name: an adjective and a noun, and a number when this is not one of the first attempts.
pub fn invent(attempt: u32) -> io::Result<String> {
    let mut bytes = [0; 4];
    getrandom::fill(&mut bytes).map_err(|error| io::Error::other(error.to_string()))?;
    let [adjective, noun, high, low] = bytes;
    let adjective = ADJECTIVES[usize::from(adjective) % ADJECTIVES.len()];
    let noun = NOUNS[usize::from(noun) % NOUNS.len()];
    Ok(match attempt {
        0..PLAIN_ATTEMPTS => format!("{adjective}_{noun}"),
        _ => format!("{adjective}_{noun}{}", u16::from_be_bytes([high, low])),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for name in ["ab", "a1", "A_b.c-d", "0x", &"a".repeat(NAME_BYTES_MAX)] {
            assert!(is_name(name), "{name}");
        }
        for name in ["", "a", "_a", ".a", "-a", "a b", "a/b", "ä1", "a\n", &"a".repeat(NAME_BYTES_MAX + 1)] {
            assert!(!is_name(name), "{name}");
        }
    }

    #[test]
    fn what_is_made_up_is_a_name() {
        for attempt in 0..2 * PLAIN_ATTEMPTS {
            let name = invent(attempt).unwrap();
            assert!(is_name(&name) && name.contains('_'), "{name}");
            assert_eq!(
                name.ends_with(|last: char| last.is_ascii_digit()),
                attempt >= PLAIN_ATTEMPTS,
                "{name}"
            );
        }
    }
}
