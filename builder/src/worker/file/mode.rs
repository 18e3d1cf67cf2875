//! `--chmod`: octal and symbolic file modes.

use wharf_solver::llb::Mode;

/// A clause of a symbolic mode that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{mode}` is not a file mode: `{clause}` is not [ugoa]*[-+=][rwxXstugo]*")]
pub struct ModeError {
    mode: String,
    clause: String,
}

/// The mode a copy gets whose source has `mode`.
pub fn apply(change: &Mode, mode: u32, is_dir: bool) -> Result<u32, ModeError> {
    match change {
        Mode::Octal(octal) => Ok(octal & 0o7777),
        Mode::Symbolic(text) => text.split(',').try_fold(mode & 0o7777, |mode, clause| {
            apply_clause(clause, mode, is_dir)
                .ok_or_else(|| ModeError { mode: text.clone(), clause: clause.to_owned() })
        }),
    }
}

const USER: u32 = 0o4700;
const GROUP: u32 = 0o2070;
const OTHER: u32 = 0o1007;

/// One `[ugoa]*([-+=][perms])+`.
fn apply_clause(clause: &str, mut mode: u32, is_dir: bool) -> Option<u32> {
    let split = clause.find(['+', '-', '='])?;
    let (who, mut rest) = clause.split_at(split);
    let mut mask = who.chars().try_fold(0, |mask, who| {
        Some(
            mask | match who {
                'u' => USER,
                'g' => GROUP,
                'o' => OTHER,
                'a' => USER | GROUP | OTHER,
                _ => return None,
            },
        )
    })?;
    if who.is_empty() {
        mask = USER | GROUP | OTHER;
    }
    while let Some(operator) = rest.chars().next() {
        rest = &rest[1..];
        let end = rest.find(['+', '-', '=']).unwrap_or(rest.len());
        let (permissions, tail) = rest.split_at(end);
        rest = tail;
        let bits = permission_bits(permissions, mode, is_dir)?;
        // `t` counts whoever is named; setuid and setgid only for user and group.
        let bits = bits & (mask | 0o1000);
        mode = match operator {
            '+' => mode | bits,
            '-' => mode & !bits,
            _ if is_dir => (mode & !(mask & 0o777)) | bits,
            _ => (mode & !mask) | bits,
        };
    }
    Some(mode)
}

fn permission_bits(permissions: &str, mode: u32, is_dir: bool) -> Option<u32> {
    let spread = |bits: u32| bits << 6 | bits << 3 | bits;
    permissions.chars().try_fold(0, |bits, permission| {
        Some(
            bits | match permission {
                'r' => spread(4),
                'w' => spread(2),
                'x' => spread(1),
                'X' if is_dir || mode & 0o111 != 0 => spread(1),
                'X' => 0,
                's' => 0o6000,
                't' => 0o1000,
                'u' => spread(mode >> 6 & 7),
                'g' => spread(mode >> 3 & 7),
                'o' => spread(mode & 7),
                _ => return None,
            },
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(change: &str, mode: u32, is_dir: bool, expected: Option<u32>) {
        let actual = apply(&Mode::Symbolic(change.to_owned()), mode, is_dir).ok();
        assert_eq!(actual, expected, "{change} on {mode:o}: {actual:?}");
    }

    #[test]
    fn symbolic_modes() {
        check("+x", 0o644, false, Some(0o755));
        check("u=rwX,go=rX", 0o600, false, Some(0o644));
        check("u=rwX,go=rX", 0o600, true, Some(0o755));
        check("u=rwX,go=rX", 0o700, false, Some(0o755));
        check("g=u", 0o740, false, Some(0o770));
        check("a-w", 0o666, false, Some(0o444));
        check("u+s", 0o755, false, Some(0o4755));
        check("g+s", 0o755, true, Some(0o2755));
        check("o+s", 0o755, false, Some(0o755));
        check("+t", 0o777, true, Some(0o1777));
        check("u+x-w", 0o600, false, Some(0o500));
        check("go=", 0o777, false, Some(0o700));
        check("rwx", 0o644, false, None);
        check("z+x", 0o644, false, None);
        check("u+q", 0o644, false, None);
        check("", 0o644, false, None);
    }

    #[test]
    fn octal_modes_replace() {
        assert_eq!(apply(&Mode::Octal(0o4755), 0o600, false), Ok(0o4755));
    }
}
