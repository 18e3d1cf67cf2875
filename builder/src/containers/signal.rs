//! Signals by name and number.

/// The names of the first signals, from number 1, without `SIG`.
const NAMES: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE",
    "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ",
    "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];

/// Further names.
const ALIASES: [(&str, i32); 4] = [("IOT", 6), ("CLD", 17), ("POLL", 29), ("UNUSED", 31)];

/// The signals that have no meaning of their own; the C library keeps the two below for itself.
const REAL_TIME: std::ops::RangeInclusive<i32> = 34..=64;

/// The number of what is called `SIGTERM`, `term`, `15`, `RTMIN+3` or the like.
pub fn number(text: &str) -> Option<i32> {
    if let Ok(number) = text.parse::<i32>() {
        return (1..=*REAL_TIME.end()).contains(&number).then_some(number);
    }
    let name = text.to_uppercase();
    let name = name.strip_prefix("SIG").unwrap_or(&name);
    let place = NAMES.iter().position(|known| *known == name).and_then(|at| i32::try_from(at + 1).ok());
    let alias = || ALIASES.iter().find(|(alias, _)| *alias == name).map(|(_, number)| *number);
    place.or_else(alias).or_else(|| real_time(name))
}

fn real_time(name: &str) -> Option<i32> {
    let (first, last) = (*REAL_TIME.start(), *REAL_TIME.end());
    let number = match name {
        "RTMIN" => first,
        "RTMAX" => last,
        _ => match (name.strip_prefix("RTMIN+"), name.strip_prefix("RTMAX-")) {
            (Some(above), _) => first.checked_add(above.parse().ok()?)?,
            (_, Some(below)) => last.checked_sub(below.parse().ok()?)?,
            _ => return None,
        },
    };
    REAL_TIME.contains(&number).then_some(number)
}

/// What a number is called: `SIGTERM`, `SIGRTMIN+3`, or the number where it has no name.
pub fn name(number: i32) -> String {
    let known = usize::try_from(number - 1).ok().and_then(|at| NAMES.get(at));
    match known {
        Some(name) => format!("SIG{name}"),
        None if REAL_TIME.contains(&number) => match number - REAL_TIME.start() {
            0 => "SIGRTMIN".to_owned(),
            above => format!("SIGRTMIN+{above}"),
        },
        None => number.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_names_and_numbers() {
        let check = |text: &str, expected: Option<i32>| assert_eq!(number(text), expected, "{text}");
        check("SIGTERM", Some(15));
        check("term", Some(15));
        check("9", Some(9));
        check("SIGRTMIN+3", Some(37));
        check("RTMAX-14", Some(50));
        check("rtmin", Some(34));
        check("IOT", Some(6));
        for text in ["", "0", "65", "-1", "SIGFOO", "SIG", "RTMIN+31", "RTMIN+-1", "RTMAX-31", "9x"] {
            check(text, None);
        }
        for signal in 1..=64 {
            check(&name(signal), Some(signal));
        }
        assert_eq!((name(15), name(37)), ("SIGTERM".to_owned(), "SIGRTMIN+3".to_owned()));
    }
}
