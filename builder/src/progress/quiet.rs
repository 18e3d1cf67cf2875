//! The `quiet` renderer: nothing but what failed, at the end.

use super::steps::Steps;

#[derive(Debug, Default)]
pub(super) struct Quiet {}

impl Quiet {
    pub(super) fn finish(&mut self, steps: &Steps, out: &mut String) {
        steps.failures(out);
    }
}
