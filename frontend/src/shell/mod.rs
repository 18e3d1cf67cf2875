//! Word expansion: `$VAR`, `${VAR:-word}` and the rest of image-builders §1.2, quoting, word splitting.

/// Looks variables up and expands words with one escape character.
#[expect(missing_debug_implementations, reason = "holds a closure")]
pub struct Lex<'a> {
    /// Backslash or backtick.
    pub escape: char,
    /// Value of a variable, `None` when it is not set.
    pub lookup: &'a dyn Fn(&str) -> Option<String>,
}

/// Result of expanding a word.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Expanded {
    /// The text.
    pub text: String,
    /// Names that were asked for and not set.
    pub unset: Vec<String>,
}

/// Why a word cannot be expanded; `at` is a byte offset in the word.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ExpandError {
    /// What is wrong, in BuildKit's words.
    pub message: String,
    /// Where in the word.
    pub at: usize,
}

impl Lex<'_> {
    /// Expands a word and removes quotes and escapes.
    pub fn word(&self, word: &str) -> Result<Expanded, ExpandError> {
        let _ = word;
        todo!()
    }

    /// Expands, then splits at unquoted white space (EXPOSE).
    pub fn words(&self, text: &str) -> Result<Vec<String>, ExpandError> {
        let _ = text;
        todo!()
    }

    /// Expands variables only; quotes are text (heredoc bodies of COPY and ADD).
    pub fn heredoc(&self, text: &str) -> Result<Expanded, ExpandError> {
        let _ = text;
        todo!()
    }
}
