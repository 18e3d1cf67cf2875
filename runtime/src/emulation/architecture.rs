//! The architectures that steps may be for: what their programs begin with, who runs them elsewhere, and a program that
//! shows whether they run.

/// An architecture of Linux.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Architecture {
    /// As OCI images name it.
    pub(super) name: &'static str,
    /// As QEMU names it.
    pub(super) qemu: &'static str,
    class: Class,
    order: Order,
    /// `e_machine` and `e_flags` of its ELF files.
    machine: u16,
    flags: u32,
    code: Code,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    Bits32 = 1,
    Bits64 = 2,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    Little = 1,
    Big = 2,
}

/// Instructions that end the process with the number of its arguments, which the kernel puts on top of the stack: what runs
/// it with more arguments than it was given is found out, too.
#[derive(Debug, PartialEq, Eq)]
enum Code {
    Words([u32; 3]),
    Bytes(&'static [u8]),
}

/// Where the program is in its memory.
const BASE: u64 = 0x40_0000;

/// Pages of all of them are that large or smaller.
const PAGE: u64 = 0x1_0000;

const ALL: [Architecture; 9] = {
    use Class::{Bits32, Bits64};
    use Code::{Bytes, Words};
    use Order::{Big, Little};
    const fn of(
        (name, qemu): (&'static str, &'static str),
        class: Class,
        order: Order,
        (machine, flags): (u16, u32),
        code: Code,
    ) -> Architecture {
        Architecture { name, qemu, class, order, machine, flags, code }
    }
    [
        // mov (%rsp),%edi; mov $60,%eax; syscall
        of(
            ("amd64", "x86_64"),
            Bits64,
            Little,
            (62, 0),
            Bytes(&[0x8b, 0x3c, 0x24, 0xb8, 60, 0, 0, 0, 0x0f, 0x05]),
        ),
        // mov (%esp),%ebx; mov $1,%eax; int $0x80
        of(("386", "i386"), Bits32, Little, (3, 0), Bytes(&[0x8b, 0x1c, 0x24, 0xb8, 1, 0, 0, 0, 0xcd, 0x80])),
        // ldr x0,[sp]; mov x8,#93; svc #0
        of(("arm64", "aarch64"), Bits64, Little, (183, 0), Words([0xf940_03e0, 0xd280_0ba8, 0xd400_0001])),
        // ldr r0,[sp]; mov r7,#1; svc #0
        of(("arm", "arm"), Bits32, Little, (40, 0x0500_0000), Words([0xe59d_0000, 0xe3a0_7001, 0xef00_0000])),
        // ld a0,0(sp); li a7,93; ecall
        of(("riscv64", "riscv64"), Bits64, Little, (243, 0), Words([0x0001_3503, 0x05d0_0893, 0x0000_0073])),
        // ld r3,0(r1); li r0,1; sc
        of(("ppc64le", "ppc64le"), Bits64, Little, (21, 2), Words([0xe861_0000, 0x3800_0001, 0x4400_0002])),
        // lg %r2,0(%r15); svc 1
        of(
            ("s390x", "s390x"),
            Bits64,
            Big,
            (22, 0),
            Bytes(&[0xe3, 0x20, 0xf0, 0x00, 0x00, 0x04, 0x0a, 0x01]),
        ),
        // ld $a0,0($sp); li $v0,5058; syscall
        of(
            ("mips64le", "mips64el"),
            Bits64,
            Little,
            (8, 0x8000_0007),
            Words([0xdfa4_0000, 0x3402_13c2, 0x0000_000c]),
        ),
        // ld.d $a0,$sp,0; li.w $a7,93; syscall 0
        of(
            ("loong64", "loongarch64"),
            Bits64,
            Little,
            (258, 0x43),
            Words([0x28c0_0064, 0x0281_740b, 0x002b_0000]),
        ),
    ]
};

impl Architecture {
    /// All of them.
    pub(super) fn all() -> &'static [Self] {
        const TABLE: &[Architecture] = &ALL;
        TABLE
    }

    /// The one that images call `name`.
    pub(super) fn named(name: &str) -> Option<&'static Self> {
        Self::all().iter().find(|known| known.name == name)
    }

    /// What its programs begin with, and which bits of that count: all but the system's name and version, and whether a
    /// program has a fixed place in memory.
    pub(super) fn magic(&self) -> ([u8; 20], [u8; 20]) {
        let mut magic = [0; 20];
        magic[..7].copy_from_slice(&self.identification()[..7]);
        magic[16..18].copy_from_slice(&self.bytes_of(u64::from(EXECUTABLE), 2));
        magic[18..].copy_from_slice(&self.bytes_of(u64::from(self.machine), 2));
        let mut mask = [0xff; 20];
        mask[7] = 0;
        mask[8] = 0;
        // The types of programs are 2 and 3.
        mask[16..18].copy_from_slice(&self.bytes_of(0xfffe, 2));
        (magic, mask)
    }

    /// The program.
    pub(super) fn program(&self) -> Vec<u8> {
        let code: Vec<u8> = match &self.code {
            Code::Words(words) => words.iter().flat_map(|word| self.bytes_of(u64::from(*word), 4)).collect(),
            Code::Bytes(bytes) => bytes.to_vec(),
        };
        // The sizes of an address, of the file's header and of a segment's.
        let (address, header, segment): (usize, u64, u64) = match self.class {
            Class::Bits32 => (4, 52, 32),
            Class::Bits64 => (8, 64, 56),
        };
        let start = header + segment;
        let size = start + code.len() as u64;
        let mut file = self.identification().to_vec();
        let mut put = |fields: &[(u64, usize)]| {
            for (value, size) in fields {
                file.extend(self.bytes_of(*value, *size));
            }
        };
        put(&[(u64::from(EXECUTABLE), 2), (u64::from(self.machine), 2), (1, 4)]);
        // Where it starts, where the segments' headers are and where those of sections, which there are none of.
        put(&[(BASE + start, address), (header, address), (0, address), (u64::from(self.flags), 4)]);
        put(&[(header, 2), (segment, 2), (1, 2), (0, 2), (0, 2), (0, 2)]);
        const LOAD: (u64, usize) = (1, 4);
        const READ_AND_EXECUTE: (u64, usize) = (5, 4);
        let place = [(0, address), (BASE, address), (BASE, address), (size, address), (size, address)];
        match self.class {
            Class::Bits32 => {
                put(&[LOAD]);
                put(&place);
                put(&[READ_AND_EXECUTE, (PAGE, address)]);
            }
            Class::Bits64 => {
                put(&[LOAD, READ_AND_EXECUTE]);
                put(&place);
                put(&[(PAGE, address)]);
            }
        }
        file.extend(code);
        file
    }

    fn identification(&self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..4].copy_from_slice(b"\x7fELF");
        bytes[4..7].copy_from_slice(&[self.class as u8, self.order as u8, 1]);
        bytes
    }

    fn bytes_of(&self, value: u64, size: usize) -> Vec<u8> {
        match self.order {
            Order::Little => value.to_le_bytes()[..size].to_vec(),
            Order::Big => value.to_be_bytes()[8 - size..].to_vec(),
        }
    }
}

/// `ET_EXEC`.
const EXECUTABLE: u16 = 2;

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;
    use std::process::Command;

    use super::*;

    #[test]
    fn programs_begin_with_what_is_looked_for() {
        for architecture in &ALL {
            let (magic, mask) = architecture.magic();
            let program = architecture.program();
            let masked = |bytes: &[u8]| -> Vec<u8> {
                bytes.iter().zip(mask).map(|(byte, mask)| byte & mask).collect()
            };
            assert_eq!(masked(&program[..20]), masked(&magic), "{}", architecture.name);
            let others = ALL.iter().filter(|other| *other != architecture);
            for other in others {
                assert_ne!(masked(&other.program()[..20]), masked(&magic), "{}", other.name);
            }
        }
        let arm64 = Architecture::named("arm64").unwrap().magic();
        assert_eq!(arm64.0[16..], [2, 0, 0xb7, 0]);
        assert_eq!(arm64.1[16..], [0xfe, 0xff, 0xff, 0xff]);
        assert_eq!(Architecture::named("s390x").unwrap().magic().1[16..], [0xff, 0xfe, 0xff, 0xff]);
        assert_eq!(Architecture::named("pdp11"), None);
    }

    #[test]
    fn programs_count_their_arguments() {
        let dir = std::env::temp_dir().join(format!("wharf-architectures-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        for architecture in &ALL {
            let path = dir.join(architecture.name);
            fs::write(&path, architecture.program()).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
            let qemu = format!("qemu-{}-static", architecture.qemu);
            match Command::new(&qemu).arg(&path).args(["a", "b"]).status() {
                Ok(status) => assert_eq!(status.code(), Some(3), "{qemu}"),
                Err(error) => println!("SKIP: {qemu}: {error}"),
            }
        }
        fs::remove_dir_all(dir).unwrap();
    }
}
