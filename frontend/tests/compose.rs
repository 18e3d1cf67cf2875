//! The compose model, from data: `testdata/compose/*.txt` and, where it is present, a corpus of other people's files.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod carets;
#[path = "compose/cases.rs"]
mod cases;
#[path = "compose/corpus.rs"]
mod corpus;
#[path = "compose/hostile.rs"]
mod hostile;
#[path = "compose/rows.rs"]
mod rows;
#[path = "compose/run.rs"]
mod run;
#[expect(clippy::print_stdout, reason = "a test that skips says what is missing")]
#[path = "compose/schema.rs"]
mod schema;
#[expect(clippy::print_stdout, reason = "a test that skips says what is missing")]
mod shared;
