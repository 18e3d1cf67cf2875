//! Renderers against fixed times, and the thread that drives them.

use std::sync::Arc;

use expect_test::{Expect, expect};
use wharf_solver::progress::{LogStream, Outcome};

use super::*;

const TERMINAL: Size = Size { columns: 50, rows: 9 };

fn vertex(n: u8) -> VertexDigest {
    VertexDigest([n; 32])
}

fn started(n: u8, name: &str) -> Event {
    Event::Started { vertex: vertex(n), name: name.into() }
}

fn log(n: u8, data: &str) -> Event {
    Event::Log { vertex: vertex(n), stream: LogStream::Stdout, data: data.into() }
}

fn completed(n: u8, name: &str, outcome: Outcome) -> Event {
    Event::Completed { vertex: vertex(n), name: name.into(), outcome }
}

fn transfer(n: u8, current: u64, done: bool) -> Event {
    let id = "sha256:0123456789abcdef0123456789abcdef".into();
    Event::Status { vertex: vertex(n), id, current, total: Some(3_400_000), done }
}

/// Renders events with their times in milliseconds; the view's clock ticks with every event.
fn render(mut view: View, events: Vec<(u64, Event)>, finish: bool) -> String {
    let mut steps = Steps::default();
    let mut out = String::new();
    let mut now = Duration::ZERO;
    for (at_ms, event) in events {
        now = Duration::from_millis(at_ms);
        let change = steps.apply(now, event);
        view.changed(&steps, now, &change, &mut out);
    }
    if finish {
        view.finish(&steps, now, TERMINAL, &mut out);
    } else {
        view.tick(&steps, now, TERMINAL, &mut out);
    }
    out
}

#[track_caller]
fn check_plain(events: Vec<(u64, Event)>, expected: Expect) {
    expected.assert_eq(&render(View::Plain(Plain::default()), events, true));
}

/// Compares the last frame, escape sequences visible as `^[`.
#[track_caller]
fn check_frame(events: Vec<(u64, Event)>, expected: Expect) {
    expected.assert_eq(&render(View::Tty(Tty::default()), events, false).replace('\u{1b}', "^["));
}

#[test]
fn plain_shows_steps_in_turn() {
    check_plain(
        vec![
            (0, started(1, "[internal] load build context")),
            (400, completed(1, "[internal] load build context", Outcome::Done)),
            (400, completed(2, "[build 1/3] FROM alpine", Outcome::Cached)),
            (500, started(3, "[build 2/3] RUN make")),
            (623, log(3, "one\ntw")),
            (12_840, log(3, "o\r\n50%\r100%\n")),
            (200_000, log(3, "\u{1b}[31mlast\u{1b}[0m, without newline")),
            (200_000, completed(3, "[build 2/3] RUN make", Outcome::Done)),
            (200_000, started(4, "[build 3/3] RUN false")),
            (
                200_100,
                completed(4, "[build 3/3] RUN false", Outcome::Failed("exit status 1:\nsee above".into())),
            ),
            (200_100, Event::Warning { message: "FROM casing".into() }),
            (200_100, Event::Warning { message: "FROM casing".into() }),
        ],
        expect![[r#"
            #1 [internal] load build context
            #1 DONE 0.4s

            #2 [build 1/3] FROM alpine
            #2 CACHED

            #3 [build 2/3] RUN make
            #3 0.123 one
            #3 12.34 two
            #3 12.34 100%
            #3 199.5 last, without newline
            #3 DONE 199.5s

            #4 [build 3/3] RUN false
            #4 ERROR: exit status 1: see above

             1 warning found:
            FROM casing
        "#]],
    );
}

#[test]
fn plain_keeps_the_lines_of_a_step_together() {
    check_plain(
        vec![
            (0, started(1, "one")),
            (0, started(2, "two")),
            (100, log(1, "a\n")),
            (200, log(2, "b\n")),
            (300, completed(3, "three", Outcome::Cached)),
            (400, log(1, "c\n")),
            // "one" had its second: the others get their turn.
            (1_100, log(1, "d\n")),
            (1_200, log(2, "e\n")),
            (1_300, completed(2, "two", Outcome::Done)),
            (1_400, completed(1, "one", Outcome::Cancelled)),
        ],
        expect![[r#"
            #1 one
            #1 0.100 a
            #1 0.400 c
            #1 1.100 d
            #1 ...

            #2 two
            #2 0.200 b
            #2 1.200 e
            #2 DONE 1.3s

            #3 three
            #3 CACHED

            #1 one
            #1 CANCELED
        "#]],
    );
}

#[test]
fn plain_shows_transfers_now_and_then() {
    check_plain(
        vec![
            (0, started(1, "FROM alpine")),
            (0, transfer(1, 0, false)),
            (100, transfer(1, 1_200_000, false)),
            (5_100, transfer(1, 2_000_000, false)),
            (5_200, transfer(1, 3_400_000, true)),
            (5_300, completed(1, "FROM alpine", Outcome::Done)),
        ],
        expect![[r#"
            #1 FROM alpine
            #1 sha256:0123456789abcdef0123456789abcdef 0B / 3.40MB
            #1 sha256:0123456789abcdef0123456789abcdef 2.00MB / 3.40MB 5.1s
            #1 sha256:0123456789abcdef0123456789abcdef 3.40MB / 3.40MB 5.2s done
            #1 DONE 5.3s
        "#]],
    );
}

#[test]
fn names_cannot_break_lines() {
    check_plain(
        vec![(0, completed(1, "RUN <<EOF\n  make\u{1b}[2J\n  #9 DONE\nEOF", Outcome::Cached))],
        expect![[r#"
            #1 RUN <<EOF make #9 DONE EOF
            #1 CACHED
        "#]],
    );
}

#[test]
fn tty_draws_what_runs_with_its_last_lines() {
    check_frame(
        vec![
            (0, completed(1, "[1/4] FROM alpine", Outcome::Cached)),
            (0, started(2, "[2/4] RUN a command with a very long line of arguments")),
            (500, log(2, "first\nsecond\tafter a tab\nunfinished \u{1b}[31m\u{65e5}\u{672c}\u{8a9e}")),
            (700, started(3, "[3/4] FROM other")),
            (900, transfer(3, 1_200_000, false)),
            (1_200, transfer(3, 1_300_000, false)),
        ],
        expect![[r#"
            ^[[?25l[+] Building 1.2s (1/3)^[[K
             => CACHED [1/4] FROM alpine                 0.0s^[[K
             => [2/4] RUN a command with a very long li  1.2s^[[K
             => => # second after a tab^[[K
             => => # unfinished 日本語^[[K
             => [3/4] FROM other                         0.5s^[[K
             => => sha256:0123456789ab 1.30MB / 3.40MB 0.3s^[[K
            ^[[J"#]],
    );
}

#[test]
fn tty_folds_what_does_not_fit() {
    let mut events: Vec<(u64, Event)> = (0..20)
        .map(|n| {
            let outcome = if n < 5 { Outcome::Cached } else { Outcome::Done };
            (u64::from(n), completed(n, &format!("step {n}"), outcome))
        })
        .collect();
    events.push((20, started(20, "running")));
    check_frame(
        events,
        expect![[r#"
        ^[[?25l[+] Building 0.0s (20/21)^[[K
         => 15 more steps finished, 5 of them cached^[[K
         => step 15                                  0.0s^[[K
         => step 16                                  0.0s^[[K
         => step 17                                  0.0s^[[K
         => step 18                                  0.0s^[[K
         => step 19                                  0.0s^[[K
         => running                                  0.0s^[[K
        ^[[J"#]],
    );

    let events = (0..20).map(|n| (0, started(n, &format!("step {n}")))).collect();
    check_frame(
        events,
        expect![[r#"
        ^[[?25l[+] Building 0.0s (0/20)^[[K
         => step 0                                   0.0s^[[K
         => step 1                                   0.0s^[[K
         => step 2                                   0.0s^[[K
         => step 3                                   0.0s^[[K
         => step 4                                   0.0s^[[K
         => step 5                                   0.0s^[[K
         => 14 more steps running^[[K
        ^[[J"#]],
    );
}

#[test]
fn tty_redraws_in_place_and_ends_with_every_step() {
    let mut steps = Steps::default();
    let mut tty = Tty::default();
    let mut out = String::new();
    steps.apply(Duration::ZERO, started(1, "RUN make"));
    tty.draw(&steps, Duration::from_millis(100), TERMINAL, &mut out);
    steps.apply(Duration::from_millis(150), log(1, "cannot make\n"));
    tty.draw(&steps, Duration::from_millis(200), TERMINAL, &mut out);
    steps
        .apply(Duration::from_millis(250), completed(1, "RUN make", Outcome::Failed("exit status 2".into())));
    steps.apply(Duration::from_millis(250), completed(2, "RUN other", Outcome::Cancelled));
    steps.apply(Duration::from_millis(250), Event::Warning { message: "slow".into() });
    tty.finish(&steps, Duration::from_millis(300), TERMINAL, &mut out);
    expect![[r#"
        ^[[?25l[+] Building 0.1s (0/1)^[[K
         => RUN make                                 0.1s^[[K
        ^[[J^[[2F[+] Building 0.2s (0/1)^[[K
         => RUN make                                 0.2s^[[K
         => => # cannot make^[[K
        ^[[J^[[3F^[[J[+] Building 0.3s (2/2) FINISHED
         => ERROR RUN make                           0.2s
         => CANCELED RUN other                       0.0s
        ------
         > RUN make:
        0.150 cannot make
        ------

         1 warning found:
        slow
        ^[[?25h"#]]
    .assert_eq(&out.replace('\u{1b}', "^["));
}

#[test]
fn no_row_is_wider_than_the_terminal() {
    for columns in 1..60 {
        for rows in 1..12 {
            let mut steps = Steps::default();
            for n in 0..6 {
                steps.apply(
                    Duration::ZERO,
                    started(n, "a name of \u{65e5}\u{672c}\u{8a9e} and more and more and more"),
                );
                steps.apply(Duration::ZERO, log(n, "some\toutput\nmore of it"));
                if n % 2 == 0 {
                    steps.apply(Duration::ZERO, completed(n, "", Outcome::Done));
                }
            }
            let mut out = String::new();
            Tty::default().draw(&steps, Duration::ZERO, Size { columns, rows }, &mut out);
            let text = out.replace("\u{1b}[?25l", "").replace("\u{1b}[K", "").replace("\u{1b}[J", "");
            assert!(text.lines().all(|row| row.chars().count() < columns.max(2)), "{columns}: {text}");
            assert!(text.lines().count() <= rows.max(3), "{rows}: {text}");
        }
    }
}

#[test]
fn quiet_shows_only_what_failed() {
    let events = vec![
        (0, started(1, "RUN true")),
        (0, log(1, "fine\n")),
        (100, completed(1, "RUN true", Outcome::Done)),
        (100, started(2, "RUN false")),
        (150, log(2, "no good\n")),
        (200, completed(2, "RUN false", Outcome::Failed("exit status 1".into()))),
        (200, Event::Warning { message: "slow".into() }),
    ];
    expect![[r#"
        ------
         > RUN false:
        0.050 no good
        ------
    "#]]
    .assert_eq(&render(View::Quiet(Quiet::default()), events, true));
}

/// A writer whose text can be read while it is in use.
#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Vec<u8>>>);

impl Write for Shared {
    fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(data);
        Ok(data.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn events_of_many_threads_are_all_shown_and_the_tail_is_kept() {
    let out = Shared::default();
    let progress = Progress::render(View::Plain(Plain::default()), out.clone(), Size::default);
    progress.send(started(1, "RUN make"));
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..100).for_each(|_| progress.send(log(1, "line\n"))));
        }
    });
    progress.send(log(1, "the end"));
    let tail = progress.tail(&vertex(1));
    assert_eq!(tail.len(), 21);
    assert_eq!(tail.last().map(String::as_str), Some("the end"));
    assert!(progress.tail(&vertex(9)).is_empty());
    progress.send(completed(1, "RUN make", Outcome::Done));
    progress.finish();
    assert_eq!(progress.tail(&vertex(1)).last().map(String::as_str), Some("the end"));
    progress.send(started(2, "too late"));
    progress.finish();
    let text = String::from_utf8(out.0.lock().unwrap().clone()).unwrap();
    assert_eq!(text.lines().filter(|line| line.ends_with(" line")).count(), 400);
    assert!(!text.contains("too late"));
}
