//! The specification's JSON schema: what is printed must be valid by it, and its keys must be ours.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::shared;

pub(crate) fn path() -> Option<PathBuf> {
    let shared = shared::corpus()?.parent()?.to_owned();
    let path = shared.join("schemas/compose/compose-spec.json");
    if !path.is_file() {
        println!("SKIP: no schema of the compose specification beside the workspace");
        return None;
    }
    Some(path)
}

/// Validates named JSON texts with somebody else's validator.
pub(crate) fn check_all(documents: &[(String, String)]) {
    const SCRIPT: &str = "
import json, sys
try:
    import jsonschema
except ImportError:
    print('SKIP: no python3-jsonschema'); sys.exit(0)
schema = json.load(open(sys.argv[1]))
validator = jsonschema.Draft7Validator(schema)
bad = 0
for name, text in json.load(sys.stdin):
    for error in validator.iter_errors(json.loads(text)):
        bad += 1
        print(name, '/'.join(map(str, error.absolute_path)), error.message[:300])
sys.exit(1 if bad else 0)
";
    let Some(schema) = path() else { return };
    let python = Command::new("python3")
        .args(["-c", SCRIPT])
        .arg(schema)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn();
    let Ok(mut python) = python else {
        println!("SKIP: no python3");
        return;
    };
    let json = serde_json::to_vec(documents).unwrap();
    python.stdin.take().unwrap().write_all(&json).unwrap();
    let output = python.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
    print!("{said}");
}
