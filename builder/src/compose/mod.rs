//! Compose: what a project's files ask for, and what there is of it, → what has to be done, → done.
//!
//! ```text
//! Project ─┐
//!          ├─plan─▶ Steps (who waits for whom) ─run─▶ Engine, networks, volumes
//! Observed ┘                    convert: Service ─▶ Ask
//! ```
//! [`plan`] and [`convert`] are pure. What there is, is known by labels alone ([`labels`]), the same as Docker's, so that
//! a command about a project finds everything that an earlier one has made, whatever its files say by now.

pub mod convert;
pub mod follow;
pub mod labels;
pub mod observe;
pub mod plan;
pub mod run;
pub mod talk;
pub mod work;
