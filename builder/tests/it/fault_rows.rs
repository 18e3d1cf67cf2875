//! The rows of the fault script: what a registry does wrong, and what that leads to.

use serde_json::{Value, json};

/// What a row leads to.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Ends {
    /// It succeeds all the same.
    Well,
    /// It fails, and this is said.
    Saying(&'static [&'static str]),
}
use Ends::{Saying, Well};

/// One way in which a registry fails.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) name: &'static str,
    /// For `FaultServer::set`.
    pub(crate) faults: Value,
    pub(crate) ends: Ends,
}

pub(crate) fn fault(on: &str, times: i32, action: Value) -> Value {
    let mut fault = action;
    fault["on"] = json!(on);
    fault["times"] = json!(times);
    fault
}

fn rows<const N: usize>(rows: [(&'static str, &'static str, i32, Value, Ends); N]) -> Vec<Row> {
    let row = |(name, on, times, action, ends)| Row { name, faults: json!([fault(on, times, action)]), ends };
    rows.into_iter().map(row).collect()
}

fn status(status: u16) -> Value {
    json!({"do": "status", "status": status})
}

fn throttled(wait: &str) -> Value {
    json!({"do": "status", "status": 429, "headers": {"Retry-After": wait}})
}

/// Of what is read.
pub(crate) fn reading() -> Vec<Row> {
    let (manifest, blob) = ("GET .*/manifests/", "GET .*/blobs/sha256");
    let date = "Sun, 06 Nov 1994 08:49:37 GMT";
    rows([
        ("hangs up", manifest, 1, json!({"do": "reset"}), Well),
        ("hangs up for ever", manifest, -1, json!({"do": "reset"}), Saying(&["cannot reach registry"])),
        (
            "is silent",
            manifest,
            -1,
            json!({"do": "silence", "seconds": 3}),
            Saying(&["cannot reach registry", "time"]),
        ),
        ("stalls", blob, 1, json!({"do": "stall", "seconds": 3}), Well),
        ("drops midway", blob, 2, json!({"do": "cut", "at": 400_000}), Well),
        ("drops midway for ever", blob, -1, json!({"do": "cut", "at": 0}), Saying(&["blob", "cannot reach"])),
        ("drops at the last byte", blob, 1, json!({"do": "cut", "at": -1}), Well),
        ("403", manifest, -1, status(403), Saying(&["does not let us fetch", "wharf login"])),
        ("404 of the manifest", manifest, -1, status(404), Saying(&["is not in registry", "base:v1"])),
        ("404 of a blob", blob, -1, status(404), Saying(&["is not in registry", "blob"])),
        ("429 with a wait", manifest, 1, throttled("0"), Well),
        ("429 with a date", manifest, 1, throttled(date), Well),
        ("429 without", blob, 1, status(429), Well),
        (
            "429 with a day",
            manifest,
            -1,
            throttled("86400"),
            Saying(&["429", "limits the rate: wait 86400 s"]),
        ),
        ("429 for ever", manifest, -1, status(429), Saying(&["429", "limits the rate"])),
        ("500 once", manifest, 1, status(500), Well),
        ("502 once", blob, 1, status(502), Well),
        ("503 once", blob, 1, status(503), Well),
        ("500 for ever", blob, -1, status(500), Saying(&["answered 500"])),
        ("502 for ever", manifest, -1, status(502), Saying(&["answered 502"])),
        ("503 for ever", manifest, -1, status(503), Saying(&["answered 503", "try again later"])),
        ("another digest of the manifest", manifest, -1, json!({"do": "flip"}), Saying(&["manifest"])),
        ("another digest of a blob", blob, -1, json!({"do": "flip"}), Saying(&["digest"])),
        ("a short blob", blob, -1, json!({"do": "shorten"}), Saying(&["bytes, expected"])),
        ("a long blob", blob, -1, json!({"do": "lengthen"}), Saying(&["bytes, expected"])),
        ("a length too large", blob, -1, json!({"do": "length", "by": 7}), Saying(&["bytes, expected"])),
        ("a length too small", blob, -1, json!({"do": "length", "by": -7}), Saying(&["bytes, expected"])),
        (
            "a redirect loop",
            blob,
            -1,
            json!({"do": "redirect", "to": "PATH"}),
            Saying(&["more than 10 redirects"]),
        ),
        (
            "a redirect to a file",
            blob,
            -1,
            json!({"do": "redirect", "to": "file:///etc/passwd"}),
            Saying(&["leads to what is no URL"]),
        ),
        (
            "429 with a wait of ages",
            manifest,
            -1,
            throttled("18446744073709551615"),
            Saying(&["429", "limits the rate"]),
        ),
        ("429 with a wait below zero", manifest, 1, throttled("-5"), Well),
        ("429 with no number", blob, 1, throttled("99999999999999999999999"), Well),
        (
            "429 with a date to come",
            manifest,
            -1,
            throttled("Sun, 06 Nov 2094 08:49:37 GMT"),
            Saying(&["429", "limits the rate"]),
        ),
        ("401 without a challenge", manifest, -1, status(401), Saying(&["does not let us fetch"])),
        ("401 of a blob", blob, -1, status(401), Saying(&["does not let us download"])),
        ("418", manifest, -1, status(418), Saying(&["answered 418"])),
        ("204", manifest, -1, status(204), Saying(&["answered 204"])),
        (
            "words with a status",
            blob,
            -1,
            json!({"do": "status", "status": 500, "body": "out of\u{1b}[31m order\nmore"}),
            Saying(&["answered 500", "out of"]),
        ),
        (
            "a part that was not asked for",
            blob,
            -1,
            json!({"do": "status", "status": 206, "body": "x"}),
            Saying(&["206"]),
        ),
        (
            "another digest in the header",
            manifest,
            -1,
            json!({"do": "headers", "headers": {"Docker-Content-Digest": format!("sha256:{}", "0".repeat(64))}}),
            Saying(&["with digest"]),
        ),
        (
            "a digest that is none in the header",
            manifest,
            -1,
            json!({"do": "headers", "headers": {"Docker-Content-Digest": "sha256:x"}}),
            Well,
        ),
        (
            "an empty manifest",
            manifest,
            -1,
            json!({"do": "status", "status": 200}),
            Saying(&["manifest is not valid"]),
        ),
        (
            "a page for people",
            manifest,
            -1,
            json!({"do": "status", "status": 200, "body": "<html>", "headers": {"Content-Type": "text/html"}}),
            Saying(&["manifest is not valid"]),
        ),
        (
            "a redirect to nowhere",
            blob,
            -1,
            json!({"do": "status", "status": 302}),
            Saying(&["leads nowhere"]),
        ),
        (
            "a redirect to another host",
            blob,
            -1,
            json!({"do": "redirect", "to": "http://127.0.0.1:OTHERPATH"}),
            Well,
        ),
        (
            "a redirect to nobody",
            blob,
            -1,
            json!({"do": "redirect", "to": "http://127.0.0.1:1/x"}),
            Saying(&["cannot reach"]),
        ),
    ])
}

/// Of what is written.
pub(crate) fn writing() -> Vec<Row> {
    let (post, put) = ("POST .*/uploads/", "PUT .*/uploads/");
    let (manifest, head) = ("PUT .*/manifests/", "HEAD ");
    rows([
        ("hangs up", put, 1, json!({"do": "reset"}), Well),
        ("drops midway", put, 1, json!({"do": "reset", "after": 100}), Well),
        (
            "drops midway for ever",
            put,
            -1,
            json!({"do": "reset", "after": 100}),
            Saying(&["cannot push", "blob"]),
        ),
        ("is silent", put, -1, json!({"do": "silence", "seconds": 3}), Saying(&["cannot push", "time"])),
        ("403", post, -1, status(403), Saying(&["does not let us push"])),
        ("404", post, -1, status(404), Saying(&["is not in registry"])),
        ("429", post, 1, json!({"do": "status", "status": 429, "headers": {"Retry-After": "0"}}), Well),
        ("500 once", put, 1, status(500), Well),
        ("503 of HEAD once", head, 1, status(503), Well),
        ("503 for ever", put, -1, status(503), Saying(&["answered 503"])),
        ("502 of the manifest once", manifest, 1, status(502), Well),
        ("500 of the manifest for ever", manifest, -1, status(500), Saying(&["answered 500"])),
        ("413", put, -1, status(413), Saying(&["answered 413"])),
        ("a digest that it does not believe", put, -1, status(400), Saying(&["answered 400"])),
        (
            "a redirect",
            put,
            -1,
            json!({"do": "redirect", "to": "http://127.0.0.1:OTHER/PATH"}),
            Saying(&["redirects what is sent"]),
        ),
        (
            "a location that is none",
            post,
            -1,
            json!({"do": "location", "to": "http://["}),
            Saying(&["is no URL"]),
        ),
        (
            "a location of another kind",
            post,
            -1,
            json!({"do": "location", "to": "ftp://127.0.0.1/x"}),
            Saying(&["no URL of the web"]),
        ),
        (
            "a location on another host",
            post,
            -1,
            json!({"do": "location", "to": "http://127.0.0.1:OTHERPATH"}),
            Well,
        ),
        ("429 with a day", put, -1, throttled("86400"), Saying(&["429", "wait 86400 s"])),
        ("429 of the manifest", manifest, 1, throttled("0"), Well),
        ("401 without a challenge", post, -1, status(401), Saying(&["does not let us push"])),
        ("401 of the manifest", manifest, -1, status(401), Saying(&["does not let us push the manifest"])),
        ("404 of the manifest", manifest, -1, status(404), Saying(&["is not in registry"])),
        ("502 for ever", post, -1, status(502), Saying(&["answered 502"])),
        ("hangs up at the manifest", manifest, 1, json!({"do": "reset"}), Well),
        (
            "hangs up at the manifest for ever",
            manifest,
            -1,
            json!({"do": "reset"}),
            Saying(&["cannot reach registry"]),
        ),
        (
            "is silent at the manifest",
            manifest,
            -1,
            json!({"do": "silence", "seconds": 3}),
            Saying(&["cannot reach registry", "time"]),
        ),
        ("has everything", head, -1, status(200), Saying(&["answered 400", "blob unknown"])),
        (
            "another digest of the manifest",
            manifest,
            -1,
            json!({
                "do": "status", "status": 201,
                "headers": {"Docker-Content-Digest": format!("sha256:{}", "0".repeat(64))},
            }),
            Saying(&["with digest"]),
        ),
        (
            "a location that nobody answers",
            post,
            -1,
            json!({"do": "location", "to": "http://127.0.0.1:1PATH"}),
            Saying(&["cannot reach"]),
        ),
        ("an upload without a location", post, -1, status(202), Saying(&["no location for the upload"])),
    ])
}
