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
    let original = mode & 0o7777;
    match change {
        Mode::Octal(octal) => Ok(octal & 0o7777),
        Mode::Symbolic(text) => text.split(',').try_fold(original, |mode, clause| {
            // POSIX has `X` ask the mode as it was before any clause.
            let executable = is_dir || original & 0o111 != 0;
            apply_clause(clause, mode, executable)
                .ok_or_else(|| ModeError { mode: text.clone(), clause: clause.to_owned() })
        }),
    }
}

const SETUID: u32 = 0o4000;
const SETGID: u32 = 0o2000;
const STICKY: u32 = 0o1000;
const OTHERS: u32 = 0o007;

/// One `[ugoa]*([-+=]perms)+`, where perms are `[rwxXst]*` or one of `[ugo]`. `executable` is the condition of `X`.
fn apply_clause(clause: &str, mut mode: u32, executable: bool) -> Option<u32> {
    let (who, mut rest) = clause.split_at(clause.find(['+', '-', '='])?);
    let who = match who {
        "" => 0o777 | SETUID | SETGID,
        who => who.chars().try_fold(0, |mask, class| Some(mask | class_bits(class)?))?,
    };
    while let Some(operator) = rest.chars().next() {
        rest = &rest[1..];
        let end = rest.find(['+', '-', '=']).unwrap_or(rest.len());
        let (permissions, tail) = rest.split_at(end);
        rest = tail;
        let (affected, bits) = match permissions {
            // A copy of other permission bits leaves the special bits as they are.
            "u" => (who & 0o777, spread(mode >> 6 & 7)),
            "g" => (who & 0o777, spread(mode >> 3 & 7)),
            "o" => (who & 0o777, spread(mode & 7)),
            _ => {
                let bits = permission_bits(permissions, executable)?;
                // The special bits are nothing that belongs to others alone.
                let special = if who & !OTHERS != 0 { bits & STICKY } else { 0 };
                (who | special, bits)
            }
        };
        mode = match operator {
            '+' => mode | bits & affected,
            '-' => mode & !(bits & affected),
            _ => mode & !affected | bits & affected,
        };
    }
    Some(mode)
}

/// What a class of `[ugoa]` may change. The sticky bit is in none: it changes when `t` is named.
fn class_bits(class: char) -> Option<u32> {
    match class {
        'u' => Some(SETUID | 0o700),
        'g' => Some(SETGID | 0o070),
        'o' => Some(OTHERS),
        'a' => Some(SETUID | SETGID | 0o777),
        _ => None,
    }
}

fn permission_bits(permissions: &str, executable: bool) -> Option<u32> {
    permissions.chars().try_fold(0, |bits, permission| {
        Some(
            bits | match permission {
                'r' => spread(4),
                'w' => spread(2),
                'x' => spread(1),
                'X' if executable => spread(1),
                'X' => 0,
                's' => SETUID | SETGID,
                't' => STICKY,
                _ => return None,
            },
        )
    })
}

/// The same three bits for user, group and others.
fn spread(bits: u32) -> u32 {
    bits << 6 | bits << 3 | bits
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
        check("u+t", 0o777, true, Some(0o1777));
        check("o+t", 0o777, true, Some(0o777));
        check("o=", 0o1777, true, Some(0o1770));
        check("=rx", 0o7777, true, Some(0o1555));
        check("a=rwxt", 0o755, true, Some(0o1777));
        check("u=rwx,g=rx", 0o6644, true, Some(0o754));
        check("g=u", 0o2740, false, Some(0o2770));
        check("o-u", 0o757, false, Some(0o750));
        check("o+g", 0o750, false, Some(0o755));
        check("a-x,u+X", 0o755, false, Some(0o744));
        check("u+x,g+X", 0o644, false, Some(0o744));
        check("a-X", 0o755, false, Some(0o644));
        check("-x+X", 0o755, true, Some(0o755));
        check("ug+s", 0o755, false, Some(0o6755));
        check("a-st", 0o7755, false, Some(0o755));
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
