//! The challenges of a `WWW-Authenticate` header (RFC 9110 section 11.6.1), read with no trust in who wrote them.
//!
//! One header may hold several challenges, and a comma separates parameters as well as challenges: a token that no `=`
//! follows begins the next one. What cannot be understood is skipped, never guessed.

use std::collections::BTreeMap;

/// The most that is read of one header, and the most challenges of it.
const LONGEST_HEADER: usize = 8 * 1024;
const MOST_CHALLENGES: usize = 16;

/// One challenge that podd can answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Challenge {
    /// User name and password (RFC 7617).
    Basic,
    /// A token from `realm` (the distribution project's token authentication).
    Bearer {
        /// The token service's URL.
        realm: String,
        /// The name of the registry at that service.
        service: Option<String>,
        /// What the token has to allow.
        scope: Option<String>,
    },
}

/// All challenges in the header that can be answered, in their order.
pub(super) fn parse(header: &str) -> Vec<Challenge> {
    let mut cursor = Cursor { rest: header.get(..LONGEST_HEADER).unwrap_or(header) };
    let mut challenges = Vec::new();
    while let Some((scheme, parameters)) = cursor.challenge() {
        challenges.extend(Challenge::new(&scheme, parameters));
        if challenges.len() == MOST_CHALLENGES {
            break;
        }
    }
    challenges
}

impl Challenge {
    fn new(scheme: &str, mut parameters: BTreeMap<String, String>) -> Option<Self> {
        match scheme {
            "basic" => Some(Self::Basic),
            "bearer" => Some(Self::Bearer {
                realm: parameters.remove("realm")?,
                service: parameters.remove("service"),
                scope: parameters.remove("scope").filter(|scope| !scope.is_empty()),
            }),
            _ => None,
        }
    }
}

struct Cursor<'a> {
    rest: &'a str,
}

impl Cursor<'_> {
    /// The next scheme, in lower case, with its parameters.
    fn challenge(&mut self) -> Option<(String, BTreeMap<String, String>)> {
        let scheme = loop {
            self.skip(|c| c == ',' || c.is_whitespace());
            match self.token() {
                Some(token) => break token.to_ascii_lowercase(),
                // A character that begins nothing: step over it.
                None => self.rest = advance(self.rest)?,
            }
        };
        let mut parameters = BTreeMap::new();
        while let Some((name, value)) = self.parameter() {
            parameters.entry(name).or_insert(value);
        }
        Some((scheme, parameters))
    }

    /// The next `name=value`, or `None`, with nothing consumed, where a new challenge begins.
    fn parameter(&mut self) -> Option<(String, String)> {
        let start = self.rest;
        let read = self.try_parameter();
        if read.is_none() {
            self.rest = start;
        }
        read
    }

    fn try_parameter(&mut self) -> Option<(String, String)> {
        self.skip(|c| c == ',' || c.is_whitespace());
        let name = self.token()?.to_ascii_lowercase();
        self.skip(char::is_whitespace);
        self.rest = self.rest.strip_prefix('=')?;
        self.skip(char::is_whitespace);
        let value = match self.rest.strip_prefix('"') {
            Some(rest) => self.quoted(rest)?,
            None => self.token()?.to_owned(),
        };
        Some((name, value))
    }

    /// The rest of a quoted string, whose opening quote is gone. One that never closes is none.
    fn quoted(&mut self, text: &str) -> Option<String> {
        let mut value = String::new();
        let mut characters = text.char_indices();
        while let Some((at, c)) = characters.next() {
            match c {
                '"' => {
                    self.rest = &self.rest[1 + at + 1..];
                    return Some(value);
                }
                '\\' => value.push(characters.next()?.1),
                c => value.push(c),
            }
        }
        None
    }

    fn token(&mut self) -> Option<&str> {
        let is_token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~:/?@".contains(c);
        let end = self.rest.find(|c| !is_token(c)).unwrap_or(self.rest.len());
        let (token, rest) = self.rest.split_at(end);
        self.rest = rest;
        (!token.is_empty()).then_some(token)
    }

    fn skip(&mut self, is_skipped: impl Fn(char) -> bool) {
        self.rest = self.rest.trim_start_matches(is_skipped);
    }
}

fn advance(text: &str) -> Option<&str> {
    let mut characters = text.chars();
    characters.next()?;
    Some(characters.as_str())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bearer(realm: &str, service: Option<&str>, scope: Option<&str>) -> Challenge {
        let owned = |text: Option<&str>| text.map(str::to_owned);
        Challenge::Bearer { realm: realm.to_owned(), service: owned(service), scope: owned(scope) }
    }

    #[test]
    fn challenges_are_read_as_registries_write_them() {
        let full = r#"Bearer realm="https://a.io/t",service="a.io",scope="repository:x:pull,push""#;
        assert_eq!(parse(full), [bearer("https://a.io/t", Some("a.io"), Some("repository:x:pull,push"))]);
        assert_eq!(parse("Basic realm=\"x\""), [Challenge::Basic]);
        assert_eq!(parse("BASIC"), [Challenge::Basic]);
        let two = r#"Negotiate, Basic realm="a \"b\", c", bearer realm = "https://a.io/t" "#;
        assert_eq!(parse(two), [Challenge::Basic, bearer("https://a.io/t", None, None)]);
        assert_eq!(parse("Bearer realm=https://a.io/t,scope=\"\""), [bearer("https://a.io/t", None, None)]);
    }

    #[test]
    fn broken_challenges_are_skipped() {
        for text in
            ["", ",,,", "=", "\"", "Bearer", "Bearer service=\"x\"", "Bearer realm=\"https://open", "\u{e4}="]
        {
            assert_eq!(parse(text), [], "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn hostile_headers_never_panic_and_are_bounded(text in ".{0,200}|(Bearer|Basic|realm|[ ,=\"\\\\a\u{e4}]){0,40}") {
            prop_assert!(parse(&text).len() <= MOST_CHALLENGES);
        }

        #[test]
        fn quoted_values_are_read_back(realm in "[ -~]{0,40}", scope in "[ -~]{1,40}") {
            let quote = |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"");
            let header = format!("Bearer realm=\"{}\", scope=\"{}\"", quote(&realm), quote(&scope));
            prop_assert_eq!(parse(&header), [bearer(&realm, None, Some(&scope))]);
        }
    }
}
