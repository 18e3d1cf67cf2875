//! The `wharf` binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    wharf::cli::main()
}
