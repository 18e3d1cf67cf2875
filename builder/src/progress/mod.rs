//! Progress: one event stream, rendered as `tty`, `plain` or `quiet`.
