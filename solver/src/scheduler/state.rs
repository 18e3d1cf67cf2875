//! The states of a vertex and the one function that leads from one to the next.

use wharf_cache::Chain;

use super::VertexOutcome;
use crate::op::ResultRef;

/// Where a vertex is. The owner enters a state, does what the state asks for (see `Owner::enter`) and feeds back what
/// came of it as an [`Event`].
///
/// ```text
/// Idle ─▶ Probing ─┬─────────────────────────────────────────────▶ Done
///                  ├─▶ Following ────────────────────────────────▶ Done
///                  ├─▶ Waiting ─▶ Comparing ─▶ Fetching ─▶ Running ─▶ Done
///                  └─▶ Lazy ─▶ Materializing ─▶ Done                 (images)
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum VertexState {
    /// Nobody asked for it; it may never be looked at.
    Idle,
    /// Its definition key is being looked up; an image's metadata is being resolved.
    Probing,
    /// An equal vertex runs first; its result will do.
    Following,
    /// `left` of its inputs are not there yet. With `certain`, no record can spare it from running.
    Waiting { left: usize, certain: bool },
    /// Its inputs are there; `left` content digests of them are not yet known.
    Comparing { left: usize },
    /// It has to run; `left` of its image inputs are being brought in.
    Fetching { left: usize },
    /// It runs.
    Running,
    /// An image of which only the metadata is known.
    Lazy { image: ResultRef },
    /// An image whose files are being brought in.
    Materializing { image: ResultRef },
    /// It has its result.
    Done(Finished),
    /// It failed, or was stopped because something else did.
    Stopped,
}

/// The result of a vertex.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Finished {
    pub(super) outcome: VertexOutcome,
    /// One for each output; of an image always the image, also when its files are here.
    pub(super) outputs: Vec<ResultRef>,
    /// Where the files of an image are.
    pub(super) files: Option<Chain>,
}

/// What can happen to a vertex.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Event {
    /// A goal, or a vertex that has to run, needs it.
    Demanded,
    /// Records (or, for sources, the definition itself) or an execution gave its result.
    Found { outcome: VertexOutcome, outputs: Vec<ResultRef> },
    /// An equal vertex is on its way.
    Equal,
    /// Its definition key is not recorded (or may not be used); `left` inputs are missing.
    Miss { left: usize, certain: bool },
    /// An input is there.
    InputDone,
    /// The files of an image input are there.
    FilesDone,
    /// Content digests were asked for; `left` of them are not known yet.
    Compare { left: usize },
    /// A content digest is there.
    DigestDone,
    /// It has to run; `left` images have to be brought in first.
    Run { left: usize },
    /// An image's metadata is known.
    Resolved { image: ResultRef },
    /// A vertex that has to run needs the image's files.
    FilesWanted,
    /// The image's files are here.
    Materialized { files: Chain },
    /// It failed or was stopped.
    Stopped,
}

impl VertexState {
    /// The state after `event`.
    ///
    /// # Panics
    /// If the event cannot happen in this state: the scheduler is wrong, not the graph.
    pub(super) fn on(self, event: Event) -> Self {
        use {Event as E, VertexState as S};
        match (self, event) {
            (S::Idle, E::Demanded) => S::Probing,
            (S::Probing, E::Equal) => S::Following,
            (S::Probing, E::Miss { left, certain }) => S::Waiting { left, certain },
            (S::Waiting { left, certain }, E::InputDone) if left > 0 => {
                S::Waiting { left: left - 1, certain }
            }
            (S::Waiting { left: 0, .. }, E::Compare { left }) => S::Comparing { left },
            (S::Comparing { left }, E::DigestDone) if left > 0 => S::Comparing { left: left - 1 },
            (S::Waiting { left: 0, .. } | S::Comparing { left: 0 }, E::Run { left: 0 }) => S::Running,
            (S::Waiting { left: 0, .. } | S::Comparing { left: 0 }, E::Run { left }) => S::Fetching { left },
            (S::Fetching { left: 1 }, E::FilesDone) => S::Running,
            (S::Fetching { left }, E::FilesDone) if left > 1 => S::Fetching { left: left - 1 },
            (S::Probing, E::Resolved { image }) => S::Lazy { image },
            (S::Lazy { image }, E::FilesWanted) => S::Materializing { image },
            (S::Materializing { image }, E::Materialized { files }) => S::Done(Finished {
                outcome: VertexOutcome::Executed,
                outputs: vec![image],
                files: Some(files),
            }),
            (
                S::Probing | S::Following | S::Comparing { left: 0 } | S::Running,
                E::Found { outcome, outputs },
            ) => S::Done(Finished { outcome, outputs, files: None }),
            (_, E::Stopped) => S::Stopped,
            (state, event) => unreachable!("{event:?} cannot happen in {state:?}"),
        }
    }

    /// Whether `event` is a request that was made (and heard) before: several vertices may want the same.
    pub(super) fn has_heard(&self, event: &Event) -> bool {
        match event {
            Event::Demanded => *self != Self::Idle,
            Event::FilesWanted => !matches!(self, Self::Lazy { .. }),
            _ => false,
        }
    }

    /// The outputs, as far as metadata goes, once others may go on with them.
    pub(super) fn outputs(&self) -> Option<&[ResultRef]> {
        match self {
            Self::Lazy { image } | Self::Materializing { image } => Some(std::slice::from_ref(image)),
            Self::Done(finished) => Some(&finished.outputs),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};
    use wharf_cache::{Chain, ContentDigest};

    use super::Event as E;
    use super::*;
    use crate::llb::VertexDigest;

    /// The states that `events` lead through from `Idle`, one a line.
    #[track_caller]
    fn check(events: Vec<Event>, states: Expect) {
        let mut state = VertexState::Idle;
        let mut text = String::new();
        for event in events {
            state = state.on(event);
            let name = format!("{state:?}");
            text.push_str(name.split("(Finished").next().unwrap_or_default());
            text.push('\n');
        }
        states.assert_eq(&text);
    }

    fn found(outcome: VertexOutcome) -> Event {
        E::Found { outcome, outputs: vec![ResultRef::Snapshots(Chain::default())] }
    }

    fn image() -> ResultRef {
        ResultRef::Image { vertex: VertexDigest([1; 32]), content: ContentDigest([2; 32]) }
    }

    #[test]
    fn a_definition_hit() {
        check(
            vec![E::Demanded, found(VertexOutcome::DefinitionHit)],
            expect![[r#"
            Probing
            Done
        "#]],
        );
    }

    #[test]
    fn a_content_hit() {
        check(
            vec![
                E::Demanded,
                E::Miss { left: 2, certain: false },
                E::InputDone,
                E::InputDone,
                E::Compare { left: 1 },
                E::DigestDone,
                found(VertexOutcome::ContentHit),
            ],
            expect![[r#"
                Probing
                Waiting { left: 2, certain: false }
                Waiting { left: 1, certain: false }
                Waiting { left: 0, certain: false }
                Comparing { left: 1 }
                Comparing { left: 0 }
                Done
            "#]],
        );
    }

    #[test]
    fn a_run_with_an_image() {
        check(
            vec![
                E::Demanded,
                E::Miss { left: 1, certain: true },
                E::InputDone,
                E::Run { left: 2 },
                E::FilesDone,
                E::FilesDone,
                found(VertexOutcome::Executed),
            ],
            expect![[r#"
                Probing
                Waiting { left: 1, certain: true }
                Waiting { left: 0, certain: true }
                Fetching { left: 2 }
                Fetching { left: 1 }
                Running
                Done
            "#]],
        );
    }

    #[test]
    fn a_run_without_inputs() {
        check(
            vec![E::Demanded, E::Miss { left: 0, certain: true }, E::Run { left: 0 }, E::Stopped],
            expect![[r#"
                Probing
                Waiting { left: 0, certain: true }
                Running
                Stopped
            "#]],
        );
    }

    #[test]
    fn an_image() {
        check(
            vec![
                E::Demanded,
                E::Resolved { image: image() },
                E::FilesWanted,
                E::Materialized { files: Chain::default() },
            ],
            expect![[r#"
                Probing
                Lazy { image: Image { vertex: 0101010101010101010101010101010101010101010101010101010101010101, content: ContentDigest(0202020202020202020202020202020202020202020202020202020202020202) } }
                Materializing { image: Image { vertex: 0101010101010101010101010101010101010101010101010101010101010101, content: ContentDigest(0202020202020202020202020202020202020202020202020202020202020202) } }
                Done
            "#]],
        );
    }

    #[test]
    fn a_follower() {
        check(
            vec![E::Demanded, E::Equal, found(VertexOutcome::DefinitionHit)],
            expect![[r#"
            Probing
            Following
            Done
        "#]],
        );
    }

    #[test]
    fn requests_are_heard_once() {
        let lazy = VertexState::Lazy { image: image() };
        assert!(!VertexState::Idle.has_heard(&E::Demanded));
        assert!(lazy.has_heard(&E::Demanded) && !lazy.has_heard(&E::FilesWanted));
        assert!(VertexState::Materializing { image: image() }.has_heard(&E::FilesWanted));
        assert!(!VertexState::Waiting { left: 1, certain: false }.has_heard(&E::InputDone));
    }

    #[test]
    #[should_panic(expected = "InputDone cannot happen in Running")]
    fn impossible_events_are_noticed() {
        let _ = VertexState::Running.on(E::InputDone);
    }
}
