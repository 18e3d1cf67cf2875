//! The same as an ordinary user, with and without subordinate ids.
