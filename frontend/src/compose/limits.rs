//! How much of anything a project may have. Files come from strangers: each of these has a message of its own.

/// Bytes of one file.
pub const FILE_BYTES_MAX: usize = 4 << 20;

/// Files read for one project; one that is included or extended by several counts each time.
pub const FILES_MAX: usize = 500;

/// Bytes of all of them together.
pub const TOTAL_BYTES_MAX: usize = 64 << 20;

/// Values in one file, what aliases stand for counted each time.
pub const NODES_MAX: usize = 200_000;

/// Mappings and lists within each other.
pub const DEPTH_MAX: usize = 64;

/// Files that include each other, and services that extend each other, in a chain.
pub const CHAIN_MAX: usize = 64;

/// `${A:-${B:-…}}` within each other.
pub const SUBSTITUTION_DEPTH_MAX: usize = 32;

/// Bytes that interpolation makes of one value.
pub const SUBSTITUTION_BYTES_MAX: usize = 1 << 20;

/// Bytes that variables make of a project: in its files, in those of variables, and in what takes its value from outside.
pub const INTERPOLATED_BYTES_MAX: usize = 64 << 20;

/// Ports of a project, those that ranges stand for counted each.
pub const PORTS_MAX: usize = 65_536;

/// Values that services of a project have by what they extend, each counted in every service.
pub const EXTENDED_NODES_MAX: usize = 500_000;
