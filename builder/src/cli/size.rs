//! Sizes of the store as they are typed: decimal, as [`bytes`](crate::progress::bytes) shows them.

/// Bytes of `1000`, `50GB`, `1.5 g`: units are powers of 1000, those with an `i` (`GiB`) powers of 1024.
pub(super) fn parse(text: &str) -> Option<u64> {
    let lower = text.to_lowercase();
    let digits = lower.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(lower.len());
    let (number, unit) = lower.split_at(digits);
    let unit = unit.trim_start();
    let (base, prefix) = match unit.strip_suffix("ib") {
        Some(prefix) => (1024_u64, prefix),
        None => (1000, unit.strip_suffix('b').unwrap_or(unit)),
    };
    let power = match prefix {
        "" if base == 1000 => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        "p" => 5,
        _ => return None,
    };
    let unit_bytes = base.pow(power);
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(unit_bytes);
    }
    let size = number.parse::<f64>().ok()? * unit_bytes as f64;
    // Below 2^53 every whole number of bytes is exact.
    if size < 9_007_199_254_740_992.0 { Some(size as u64) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::bytes;

    #[test]
    fn sizes_are_decimal() {
        for (text, size) in [
            ("0", Some(0)),
            ("10b", Some(10)),
            ("3k", Some(3000)),
            ("50GB", Some(50_000_000_000)),
            ("1.5 MB", Some(1_500_000)),
            ("64MiB", Some(64 << 20)),
            ("1.5gib", Some(3 << 29)),
            ("18446744073709551615", Some(u64::MAX)),
            ("", None),
            ("ib", None),
            ("1ib", None),
            ("m", None),
            ("-1", None),
            ("1x", None),
            ("1.2.3", None),
            (".", None),
            ("99999999999p", None),
            ("99999999999.5p", None),
        ] {
            assert_eq!(parse(text), size, "{text}");
        }
    }

    #[test]
    fn what_is_shown_is_what_was_typed() {
        for size in ["31B", "1.20MB", "50.00GB", "3.25TB"] {
            assert_eq!(bytes(parse(size).unwrap()), size);
        }
    }
}
