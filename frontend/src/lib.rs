//! Dockerfile text → graph, compose text → project. Pure: no files, no network, no clock, no environment.
//!
//! ```text
//! &str ──parser──▶ Ast ──instructions──▶ Dockerfile (stages) ──dockerfile2llb──▶ Definition + ImageConfig
//! ```
//! Problems in the input are data: every step returns what it understood together with its [`Diagnostic`]s.

pub mod compose;
pub mod csv;
pub mod diagnostic;
pub mod dockerfile2llb;
pub mod dockerignore;
pub mod image;
pub mod instructions;
pub mod lint;
pub mod parser;
pub mod shell;

pub use diagnostic::{Diagnostic, Related, Severity};
pub use lint::{Linter, Rule};
