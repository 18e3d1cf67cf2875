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
    let clauses: Option<Vec<String>> = text.split(',').map(symbolic_clause).collect();
    clauses.map(|clauses| Mode::Symbolic(clauses.join(","))).ok_or_else(|| {
        format!("invalid chmod parameter: '{text}'. it should be octal or symbolic like u=rwX,go=rX")
    })
}

/// `[ugoa]*` and then one or more of `[+-=]` with `[rwxXstugo]*`. Each copy (`[ugo]`) and each row of the other letters is
/// a change of its own in BuildKit, so that the last one of `g=ur` counts; here it gets an operator of its own: `g=u=r`.
fn symbolic_clause(clause: &str) -> Option<String> {
    let (who, mut rest) = clause.split_at(clause.find(|c| !matches!(c, 'u' | 'g' | 'o' | 'a'))?);
    let is_others = !who.is_empty() && who.bytes().all(|class| class == b'o');
    let mut changes = who.to_owned();
    while !rest.is_empty() {
        let permissions = rest.strip_prefix(['+', '-', '='])?;
        let operator = &rest[..1];
        let (letters, tail) =
            permissions.split_at(permissions.find(['+', '-', '=']).unwrap_or(permissions.len()));
        if !letters.bytes().all(|letter| b"rwxXstugo".contains(&letter)) {
            return None;
        }
        rest = tail;
        let rows = rows(letters);
        for row in &rows {
            // Beside others, letters that set nothing (`X` only adds; set-id and sticky are not for others) clear nothing.
            let sets_nothing =
                |letter| letter == 'X' && operator == "=" || is_others && matches!(letter, 's' | 't');
            if rows.len() == 1 || !row.chars().all(sets_nothing) {
                changes.push_str(operator);
                changes.push_str(row);
            }
        }
    }
    Some(changes)
}

/// Each of `ugo` alone, and what is between them; one empty row if there is nothing.
fn rows(letters: &str) -> Vec<&str> {
    let is_copy = |c: char| matches!(c, 'u' | 'g' | 'o');
    let rows = letters.split_inclusive(is_copy).flat_map(|part| {
        let (others, copy) = part.split_at(part.find(is_copy).unwrap_or(part.len()));
        [others, copy].into_iter().filter(|row| !row.is_empty())
    });
    let rows: Vec<&str> = rows.collect();
    if rows.is_empty() { vec![""] } else { rows }
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
        for (text, mode) in [
            ("g=ur", "g=u=r"),
            ("g=ru", "g=r=u"),
            ("g+uor-xo", "g+u+o+r-x-o"),
            ("u=gX", "u=g"),
            ("u+gX", "u+g+X"),
            ("o=us", "o=u"),
            ("o=s", "o=s"),
            ("u=X", "u=X"),
            ("ug=ot,o=", "ug=o=t,o="),
        ] {
            assert_eq!(parse_mode(text), Ok(Mode::Symbolic(mode.to_owned())), "{text}");
        }
        for text in [
            "",
            "10000",
            "888",
            "0x1ff",
            "99999999999999",
            "u",
            "u+q",
            "rwx",
            "u=rw,",
            "-1",
            ",u=r",
            "u=\u{e9}",
            "u\u{e9}",
        ] {
            parse_mode(text).expect_err(text);
        }
    }
}
