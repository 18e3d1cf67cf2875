//! Owners and modes of files: `--chown`, `--chmod`, the owner of WORKDIR.

use wharf_solver::llb::{Mode, Owner, UserRef};

/// Root by number.
pub(super) fn root() -> Owner {
    Owner { user: UserRef::Id(0), group: Some(UserRef::Id(0)) }
}

/// `user`, `user:group`, `:group` (root's user); names or numbers.
pub(super) fn parse(text: &str) -> Owner {
    let (user, group) = match text.split_once(':') {
        Some((user, group)) => (user, Some(group).filter(|group| !group.is_empty())),
        None => (text, None),
    };
    let user = if user.is_empty() { UserRef::Id(0) } else { reference(user) };
    Owner { user, group: group.map(reference) }
}

fn reference(text: &str) -> UserRef {
    text.parse().map_or_else(|_| UserRef::Name(text.to_owned()), UserRef::Id)
}

/// An octal mode up to 07777 or a symbolic one.
pub(super) fn parse_mode(text: &str) -> Result<Mode, String> {
    let invalid = || {
        Err(format!("invalid chmod parameter: '{text}'. it should be octal string and between 0 and 07777"))
    };
    if text.starts_with(|c: char| c.is_ascii_digit()) {
        return match u32::from_str_radix(text, 8) {
            Ok(mode) if mode <= 0o7777 => Ok(Mode::Octal(mode)),
            _ => invalid(),
        };
    }
    if !text.is_empty() && text.split(',').all(is_symbolic_clause) {
        Ok(Mode::Symbolic(text.to_owned()))
    } else {
        Err(format!("invalid chmod parameter: '{text}'. it should be octal or symbolic like u=rwX,go=rX"))
    }
}

/// `[ugoa]*` and then one or more of `[+-=]` with `[rwxXst]*` or one of `[ugo]`.
fn is_symbolic_clause(clause: &str) -> bool {
    let mut rest = clause.trim_start_matches(['u', 'g', 'o', 'a']);
    if rest.is_empty() {
        return false;
    }
    while !rest.is_empty() {
        let Some(permissions) = rest.strip_prefix(['+', '-', '=']) else { return false };
        rest = match permissions.strip_prefix(['u', 'g', 'o']) {
            Some(after) => after,
            None => permissions.trim_start_matches(['r', 'w', 'x', 'X', 's', 't']),
        };
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_are_names_or_numbers() {
        let name = |text: &str| UserRef::Name(text.to_owned());
        for (text, user, group) in [
            ("1000", UserRef::Id(1000), None),
            ("1000:0", UserRef::Id(1000), Some(UserRef::Id(0))),
            ("app", name("app"), None),
            ("app:staff", name("app"), Some(name("staff"))),
            ("app:", name("app"), None),
            (":50", UserRef::Id(0), Some(UserRef::Id(50))),
            ("4294967296", name("4294967296"), None),
        ] {
            assert_eq!(parse(text), Owner { user, group }, "{text}");
        }
    }

    #[test]
    fn modes_are_octal_or_symbolic() {
        for (text, mode) in [("755", 0o755), ("0", 0), ("07777", 0o7777), ("0644", 0o644)] {
            assert_eq!(parse_mode(text), Ok(Mode::Octal(mode)));
        }
        for text in ["u=rwX,go=rX", "+x", "g=u", "a-w", "u+x-w", "u=", "o-rwx", "+t"] {
            assert_eq!(parse_mode(text), Ok(Mode::Symbolic(text.to_owned())));
        }
        for text in ["", "10000", "888", "0x1ff", "99999999999999", "u", "u+q", "rwx", "u=rw,", "-1"] {
            parse_mode(text).expect_err(text);
        }
    }
}
