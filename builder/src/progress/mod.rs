//! Progress: one event stream, rendered as `tty`, `plain` or `quiet`.

mod say;
mod internal;

pub use say::{print_error, print_note, print_result};

#[derive(Debug, Clone, Copy)]
pub enum Mode { Auto, Tty, Plain, Quiet }
#[derive(Debug)]
pub struct Progress(std::sync::Mutex<Vec<(wharf_solver::llb::VertexDigest, usize)>>);
impl Progress {
    pub fn start(_m: Mode) -> Self { Self(Default::default()) }
    pub fn finish(&self) {}
    pub fn color(&self) -> bool { false }
    pub fn tail(&self, _: &wharf_solver::llb::VertexDigest) -> Vec<String> { vec![] }
}
impl wharf_solver::progress::Sink for Progress {
    fn send(&self, event: wharf_solver::progress::Event) { 
        use wharf_solver::progress::Event as E;
        match event {
            E::Log { data, .. } => eprint!("{}", String::from_utf8_lossy(&data)),
            other => eprintln!("{other:?}"),
        }
    }
}
