//! Classic BPF for seccomp: the few instructions that a filter needs, put together without absolute addresses.
//!
//! Every piece of code here ends in a return and jumps only forward inside itself, so pieces join by concatenation.

use libc::sock_filter;

/// A piece of a program that decides: each way through it ends in a return.
pub(super) type Code = Vec<sock_filter>;

/// The most instructions that the kernel takes (`BPF_MAXINSNS`).
pub(super) const INSTRUCTIONS_MAX: usize = 4096;

/// How an argument is compared with a constant, both unsigned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Comparison {
    Equal(u64),
    NotEqual(u64),
    Less(u64),
    LessOrEqual(u64),
    Greater(u64),
    GreaterOrEqual(u64),
    MaskedEqual { mask: u64, value: u64 },
}

/// One condition on an argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Condition {
    pub(crate) argument: u32,
    pub(crate) width: Width,
    pub(crate) comparison: Comparison,
}

/// What of an argument's register the kernel looks at, and so what is to be compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Width {
    /// The lower half: an `int`, a process id, flags. A program may put anything into the upper one.
    Word,
    /// All of it: a `long`, a pointer.
    Register,
}

/// Answers `action`.
pub(super) fn answer(action: u32) -> Code {
    vec![statement(RET, action)]
}

/// Loads the architecture of the call and goes on with the code of the one that matches; `otherwise` when none does.
pub(super) fn by_architecture(sections: &[(u32, Code)], otherwise: u32) -> Code {
    let mut program = vec![statement(LOAD, ARCHITECTURE_OFFSET)];
    for (architecture, code) in sections {
        program.push(jump(JUMP_EQUAL, *architecture, 1, 0));
        program.push(statement(JUMP, length(code)));
        program.extend_from_slice(code);
    }
    program.push(statement(RET, otherwise));
    program
}

/// Loads the number of the call and goes on with the code of the range that it is in. `ranges` is sorted, each entry
/// reaches to the next one's start, and the first starts at 0. A binary search, because the kernel runs the filter
/// for every number when it is installed.
pub(super) fn by_number(ranges: &[(u32, &Code)]) -> Code {
    let mut program = vec![statement(LOAD, NUMBER_OFFSET)];
    program.extend(search(ranges));
    program
}

fn search(ranges: &[(u32, &Code)]) -> Code {
    let (low, high) = ranges.split_at(ranges.len() / 2);
    let Some((pivot, code)) = high.first() else { return Vec::new() };
    if low.is_empty() {
        return (*code).clone();
    }
    let (below, above) = (search(low), search(high));
    let mut program = match u8::try_from(below.len()) {
        Ok(distance) => vec![jump(JUMP_GREATER_EQUAL, *pivot, distance, 0)],
        Err(_) => vec![jump(JUMP_GREATER_EQUAL, *pivot, 0, 1), statement(JUMP, length(&below))],
    };
    program.extend(below);
    program.extend(above);
    program
}

/// Answers `action` when all `conditions` hold and goes on with `otherwise` when one does not.
pub(super) fn when(conditions: &[Condition], action: u32, otherwise: Code) -> Code {
    let mut program = answer(action);
    for condition in conditions.iter().rev() {
        let mut code = compare(condition, program.len());
        code.append(&mut program);
        program = code;
    }
    program.extend(otherwise);
    program
}

/// Falls through when the condition holds, else skips `rest` instructions behind this piece. At most six conditions of
/// at most seven instructions follow each other, so a distance fits a byte.
fn compare(condition: &Condition, rest: usize) -> Code {
    let low = ARGUMENTS_OFFSET + 8 * condition.argument;
    let high = low + 4;
    let fail = u8::try_from(rest).unwrap_or(u8::MAX);
    let load = |offset| statement(LOAD, offset);
    if condition.width == Width::Word {
        return compare_word(load(low), condition.comparison, fail);
    }
    match condition.comparison {
        Comparison::Equal(value) => vec![
            load(high),
            jump(JUMP_EQUAL, upper(value), 0, fail.saturating_add(2)),
            load(low),
            jump(JUMP_EQUAL, lower(value), 0, fail),
        ],
        Comparison::NotEqual(value) => vec![
            load(high),
            jump(JUMP_EQUAL, upper(value), 0, 2),
            load(low),
            jump(JUMP_EQUAL, lower(value), fail, 0),
        ],
        Comparison::Greater(value) => ordered(low, high, value, JUMP_GREATER, true, fail),
        Comparison::GreaterOrEqual(value) => ordered(low, high, value, JUMP_GREATER_EQUAL, true, fail),
        Comparison::Less(value) => ordered(low, high, value, JUMP_GREATER_EQUAL, false, fail),
        Comparison::LessOrEqual(value) => ordered(low, high, value, JUMP_GREATER, false, fail),
        Comparison::MaskedEqual { mask, value } => vec![
            load(high),
            statement(AND, upper(mask)),
            jump(JUMP_EQUAL, upper(value), 0, fail.saturating_add(3)),
            load(low),
            statement(AND, lower(mask)),
            jump(JUMP_EQUAL, lower(value), 0, fail),
        ],
    }
}

/// The same for the lower half alone.
fn compare_word(load: sock_filter, comparison: Comparison, fail: u8) -> Code {
    let test = |operation, value, expected| {
        let (holds, fails) = if expected { (0, fail) } else { (fail, 0) };
        jump(operation, lower(value), holds, fails)
    };
    match comparison {
        Comparison::Equal(value) => vec![load, test(JUMP_EQUAL, value, true)],
        Comparison::NotEqual(value) => vec![load, test(JUMP_EQUAL, value, false)],
        Comparison::Greater(value) => vec![load, test(JUMP_GREATER, value, true)],
        Comparison::GreaterOrEqual(value) => vec![load, test(JUMP_GREATER_EQUAL, value, true)],
        Comparison::Less(value) => vec![load, test(JUMP_GREATER_EQUAL, value, false)],
        Comparison::LessOrEqual(value) => vec![load, test(JUMP_GREATER, value, false)],
        Comparison::MaskedEqual { mask, value } => {
            vec![load, statement(AND, lower(mask)), test(JUMP_EQUAL, value, true)]
        }
    }
}

/// Compares upper words first; the lower ones decide with `operation` when the upper ones are equal. The condition
/// holds when the comparison comes out as `expected`.
fn ordered(low: u32, high: u32, value: u64, operation: u16, expected: bool, fail: u8) -> Code {
    let last = if expected { (0, fail) } else { (fail, 0) };
    // From the instruction that compares the upper words for order there are three more in this piece.
    let greater = if expected { 3 } else { fail.saturating_add(3) };
    // From the one that compares them for equality there are two more.
    let less = if expected { fail.saturating_add(2) } else { 2 };
    vec![
        statement(LOAD, high),
        jump(JUMP_GREATER, upper(value), greater, 0),
        jump(JUMP_EQUAL, upper(value), 0, less),
        statement(LOAD, low),
        jump(operation, lower(value), last.0, last.1),
    ]
}

const LOAD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
const AND: u16 = 0x54; // BPF_ALU | BPF_AND | BPF_K
const JUMP: u16 = 0x05; // BPF_JMP | BPF_JA
const JUMP_EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
const JUMP_GREATER: u16 = 0x25; // BPF_JMP | BPF_JGT | BPF_K
const JUMP_GREATER_EQUAL: u16 = 0x35; // BPF_JMP | BPF_JGE | BPF_K
const RET: u16 = 0x06; // BPF_RET | BPF_K

/// Offsets in `struct seccomp_data`; both supported architectures are little-endian.
const NUMBER_OFFSET: u32 = 0;
const ARCHITECTURE_OFFSET: u32 = 4;
const ARGUMENTS_OFFSET: u32 = 16;

fn statement(code: u16, k: u32) -> sock_filter {
    sock_filter { code, jt: 0, jf: 0, k }
}

fn jump(code: u16, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code, jt, jf, k }
}

fn length(code: &Code) -> u32 {
    u32::try_from(code.len()).unwrap_or(u32::MAX)
}

fn upper(value: u64) -> u32 {
    (value >> 32) as u32
}

fn lower(value: u64) -> u32 {
    (value & 0xffff_ffff) as u32
}

/// What the kernel would do: runs `program` over one call.
#[cfg(test)]
pub(super) fn interpret(program: &[sock_filter], architecture: u32, number: u32, arguments: [u64; 6]) -> u32 {
    let load = |offset: u32| match offset {
        NUMBER_OFFSET => number,
        ARCHITECTURE_OFFSET => architecture,
        _ => {
            let argument = arguments[((offset - ARGUMENTS_OFFSET) / 8) as usize];
            if (offset - ARGUMENTS_OFFSET).is_multiple_of(8) { lower(argument) } else { upper(argument) }
        }
    };
    let (mut at, mut accumulator) = (0usize, 0u32);
    loop {
        let instruction = program[at];
        at += 1;
        let taken = match instruction.code {
            LOAD => {
                accumulator = load(instruction.k);
                continue;
            }
            AND => {
                accumulator &= instruction.k;
                continue;
            }
            JUMP => {
                at += instruction.k as usize;
                continue;
            }
            RET => return instruction.k,
            JUMP_EQUAL => accumulator == instruction.k,
            JUMP_GREATER => accumulator > instruction.k,
            JUMP_GREATER_EQUAL => accumulator >= instruction.k,
            code => panic!("instruction {code:#x}"),
        };
        at += usize::from(if taken { instruction.jt } else { instruction.jf });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const YES: u32 = 1;
    const NO: u32 = 2;

    #[test]
    fn comparisons_are_as_wide_as_the_argument() {
        let words =
            [0, 1, 5, 6, 7, 0xffff_ffff, 1 << 32, (1 << 32) + 6, (6 << 32) + 6, (7 << 32) + 5, u64::MAX];
        for &value in &words {
            for &given in &words {
                for width in [Width::Word, Width::Register] {
                    let check = |comparison, expected: bool| {
                        // Two equal conditions: the first one's way out crosses the second.
                        let condition = Condition { argument: 3, width, comparison };
                        let program = when(&[condition, condition], YES, answer(NO));
                        let answer = interpret(&program, 0, 0, [9, 9, 9, given, 9, 9]);
                        assert_eq!(answer == YES, expected, "{width:?} {comparison:?} of {given}");
                    };
                    let cut = |number: u64| match width {
                        Width::Word => number & 0xffff_ffff,
                        Width::Register => number,
                    };
                    let (seen, known) = (cut(given), cut(value));
                    check(Comparison::Equal(value), seen == known);
                    check(Comparison::NotEqual(value), seen != known);
                    check(Comparison::Less(value), seen < known);
                    check(Comparison::LessOrEqual(value), seen <= known);
                    check(Comparison::Greater(value), seen > known);
                    check(Comparison::GreaterOrEqual(value), seen >= known);
                    check(Comparison::MaskedEqual { mask: value, value: 0 }, seen & known == 0);
                    check(Comparison::MaskedEqual { mask: 0xff, value }, seen & 0xff == known);
                }
            }
        }
    }

    #[test]
    fn search_finds_every_range() {
        for count in [1u32, 2, 3, 7, 300, 1500] {
            let codes: Vec<Code> = (0..count).map(answer).collect();
            let starts: Vec<(u32, &Code)> = (0..count).map(|n| n * 3).zip(&codes).collect();
            let program = by_architecture(&[(8, answer(NO)), (7, by_number(&starts))], u32::MAX);
            for number in 0..count * 3 {
                assert_eq!(interpret(&program, 7, number, [0; 6]), number / 3, "{number} of {count}");
            }
            assert_eq!(interpret(&program, 8, 5, [0; 6]), NO);
            assert_eq!(interpret(&program, 9, 5, [0; 6]), u32::MAX);
        }
    }
}
