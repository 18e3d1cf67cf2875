//! How a registry wants us to prove who we are: its challenge, and the tokens got for it
//! (distribution's token authentication specification; RFC 9110 §11 for the header).

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::time::{Duration, Instant};

use reqwest::Url;
use reqwest::header::{HeaderMap, WWW_AUTHENTICATE};
use serde::Deserialize;

use super::credentials::Credential;

/// Largest answer of a token server that is read.
pub(super) const TOKEN_BYTES_MAX: u64 = 1 << 20;
/// Life of a token that does not say how long it lives (token specification: `expires_in`).
const TOKEN_LIFE_DEFAULT_S: u64 = 60;
/// A token is not kept longer than this, whatever it says.
const TOKEN_LIFE_MAX_S: u64 = 3600;
/// A token is not used in its last seconds: the registry's clock may be ahead.
const TOKEN_MARGIN_S: u64 = 5;

/// What we know of a registry's authentication.
#[derive(Debug, Default)]
pub(super) struct Session {
    /// What it asked for; `None` until it refused a request.
    pub(super) challenge: Option<Challenge>,
    /// The user's credentials by repository, as far as they were looked up.
    pub(super) credentials: HashMap<String, Option<Credential>>,
    tokens: HashMap<String, Token>,
}

/// How a registry wants to be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Challenge {
    /// Name and password with each request.
    Basic,
    /// A token from the server at `realm`.
    Bearer {
        /// The token server.
        realm: Url,
        /// Its name for the registry.
        service: Option<String>,
    },
}

/// What is put into a request.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Authorization {
    /// Name and password.
    Basic(String, String),
    /// A token.
    Bearer(String),
}

impl fmt::Debug for Authorization {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Authorization(…)")
    }
}

struct Token {
    value: String,
    expires: Instant,
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").field("expires", &self.expires).finish_non_exhaustive()
    }
}

/// A token server's answer.
#[derive(Deserialize)]
pub(super) struct TokenAnswer {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<u64>,
}

impl Session {
    /// A token for `scope` that is still good.
    pub(super) fn token(&self, scope: &str) -> Option<Authorization> {
        let token = self.tokens.get(scope).filter(|token| token.expires > Instant::now())?;
        Some(Authorization::Bearer(token.value.clone()))
    }

    /// Keeps what the token server gave; `None` if that was no token, or none that a header can have.
    pub(super) fn keep(&mut self, scope: &str, answer: TokenAnswer) -> Option<Authorization> {
        let value = answer
            .token
            .or(answer.access_token)
            .filter(|value| !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_graphic()))?;
        let life_s = answer.expires_in.unwrap_or(TOKEN_LIFE_DEFAULT_S).min(TOKEN_LIFE_MAX_S);
        let expires = Instant::now() + Duration::from_secs(life_s.saturating_sub(TOKEN_MARGIN_S));
        self.tokens.insert(scope.to_owned(), Token { value: value.clone(), expires });
        Some(Authorization::Bearer(value))
    }

    /// Forgets a token that the registry refused.
    pub(super) fn reject(&mut self, authorization: &Authorization) {
        if let Authorization::Bearer(refused) = authorization {
            self.tokens.retain(|_, token| token.value != *refused);
        }
    }
}

impl Challenge {
    /// The challenge of a 401 answer that we can meet; tokens are preferred.
    pub(super) fn of(headers: &HeaderMap) -> Option<Self> {
        let texts = headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok());
        let challenges: Vec<_> = texts.flat_map(parse_challenges).collect();
        let bearer = challenges.iter().find(|(scheme, _)| scheme == "bearer").and_then(|(_, parameters)| {
            let realm = parameters.get("realm")?.parse().ok()?;
            Some(Self::Bearer { realm, service: parameters.get("service").cloned() })
        });
        let basic = || challenges.iter().any(|(scheme, _)| scheme == "basic").then_some(Self::Basic);
        bearer.or_else(basic)
    }
}

/// Scheme (lowercase) and parameters (names lowercase) of each challenge in a `WWW-Authenticate` value.
fn parse_challenges(text: &str) -> Vec<(String, BTreeMap<String, String>)> {
    let mut challenges: Vec<(String, BTreeMap<String, String>)> = Vec::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let end = rest.find([' ', '\t', ',', '=', '"']).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        if word.is_empty() {
            // The end, or something that no grammar allows: what was read so far must do.
            return challenges;
        }
        match after.trim_start_matches([' ', '\t']).strip_prefix('=') {
            Some(value) => {
                let (value, after) = parse_value(value.trim_start_matches([' ', '\t']));
                if let Some((_, parameters)) = challenges.last_mut() {
                    parameters.entry(word.to_ascii_lowercase()).or_insert(value);
                }
                rest = after;
            }
            None => {
                challenges.push((word.to_ascii_lowercase(), BTreeMap::new()));
                rest = after;
            }
        }
    }
}

/// A token or a quoted string, and what comes after it.
fn parse_value(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let (value, rest) = text.split_at(text.find([',', ' ', '\t']).unwrap_or(text.len()));
        return (value.to_owned(), rest);
    };
    let mut value = String::new();
    let mut chars = quoted.chars();
    while let Some(c) = chars.next() {
        match c {
            '"' => break,
            '\\' => value.extend(chars.next()),
            c => value.push(c),
        }
    }
    (value, chars.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(values: &[&str], expected: &str) {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(WWW_AUTHENTICATE, value.parse().unwrap());
        }
        let actual = match Challenge::of(&headers) {
            Some(Challenge::Bearer { realm, service }) => format!("{realm} {}", service.unwrap_or_default()),
            Some(Challenge::Basic) => "basic".to_owned(),
            None => "none".to_owned(),
        };
        assert_eq!(actual, expected);
    }

    #[test]
    fn challenges_are_read() {
        check(
            &[r#"Bearer realm="https://a.io/token",service="a.io",scope="x:y,z""#],
            "https://a.io/token a.io",
        );
        check(&[r#"bearer service=a.io , realm = "https://a.io/t""#], "https://a.io/t a.io");
        check(&[r#"Basic realm="x", Bearer realm="https://a.io/t""#], "https://a.io/t ");
        check(&[r#"Basic realm="x""#, r#"Bearer realm="https://a.io/t""#], "https://a.io/t ");
        check(&[r#"Basic realm="a\"b, Bearer realm=x""#], "basic");
        check(&["Negotiate, Basic"], "basic");
    }

    #[test]
    fn nonsense_is_no_challenge() {
        for value in
            ["", "=", "\"", "Bearer", "Bearer realm=", "Bearer realm=\"not a url", "realm=x", ",,,", "a=\"\\"]
        {
            check(&[value], "none");
        }
        check(&[], "none");
    }

    #[test]
    fn tokens_are_kept_until_refused_or_expired() {
        let answer = |life| TokenAnswer { token: Some("t".to_owned()), access_token: None, expires_in: life };
        let mut session = Session::default();
        let authorization = session.keep("s", answer(None)).unwrap();
        assert_eq!(session.token("s"), Some(authorization.clone()));
        assert_eq!(session.token("other"), None);
        session.reject(&authorization);
        assert_eq!(session.token("s"), None);
        session.keep("s", answer(Some(1))).unwrap();
        assert_eq!(session.token("s"), None, "its last seconds are not used");
        for value in ["", "a\r\nX: y", "a b", "\u{e9}"] {
            let answer = TokenAnswer { token: Some(value.to_owned()), access_token: None, expires_in: None };
            assert!(session.keep("s", answer).is_none(), "{value:?}");
        }
        session.keep("s", answer(Some(u64::MAX))).unwrap();
        assert!(session.token("s").is_some());
    }
}
