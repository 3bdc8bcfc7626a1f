//! Which protocol a request is upgraded to, and what a request is told that cannot be.

use http::header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, UPGRADE};
use http::{HeaderMap, HeaderName, Response, StatusCode};

use super::websocket::accept_key;

const SPDY: &str = "SPDY/3.1";
const WEBSOCKET: &str = "websocket";
/// The protocols that the client can speak over SPDY, and the one that is chosen.
const PROTOCOL_VERSION: HeaderName = HeaderName::from_static("x-stream-protocol-version");
const ACCEPTED_VERSIONS: HeaderName = HeaderName::from_static("x-accepted-stream-protocol-versions");

/// What a kind of request can be upgraded to, the best first.
pub(super) struct Offer {
    pub(super) spdy: &'static [&'static str],
    pub(super) websocket: &'static [&'static str],
}

/// What is chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Upgrade {
    Spdy(&'static str),
    /// The subprotocol, which a client need not name, and the answer to its key.
    WebSocket(Option<&'static str>, String),
}

/// Why there is no upgrade.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    pub(super) text: String,
    accepted: &'static [&'static str],
}

impl Refusal {
    pub(super) fn new(status: StatusCode, text: impl Into<String>) -> Self {
        Self { status, text: text.into(), accepted: &[] }
    }

    pub(super) fn response(self) -> Response<String> {
        let mut response = Response::new(format!("{}\n", self.text));
        *response.status_mut() = self.status;
        for accepted in self.accepted {
            response.headers_mut().append(ACCEPTED_VERSIONS, http::HeaderValue::from_static(accepted));
        }
        response
    }
}

impl Upgrade {
    /// The answer by which the connection becomes one of that protocol.
    pub(super) fn response(&self) -> Response<String> {
        let builder =
            Response::builder().status(StatusCode::SWITCHING_PROTOCOLS).header(CONNECTION, "Upgrade");
        let builder = match self {
            Self::Spdy(protocol) => builder.header(UPGRADE, SPDY).header(PROTOCOL_VERSION, *protocol),
            Self::WebSocket(protocol, accept) => {
                let builder = builder.header(UPGRADE, WEBSOCKET).header(SEC_WEBSOCKET_ACCEPT, accept);
                match protocol {
                    Some(protocol) => builder.header(SEC_WEBSOCKET_PROTOCOL, *protocol),
                    None => builder,
                }
            }
        };
        builder.body(String::new()).expect("all values are tokens")
    }
}

/// Chooses the first of the client's protocols that is on offer.
pub(super) fn negotiate(headers: &HeaderMap, offer: &Offer) -> Result<Upgrade, Refusal> {
    let bad = |text: &str| Refusal::new(StatusCode::BAD_REQUEST, text);
    let connection = values(headers, &CONNECTION).any(|value| value.eq_ignore_ascii_case("upgrade"));
    let mut upgrades = values(headers, &UPGRADE);
    match upgrades.next() {
        Some(to) if connection && to.eq_ignore_ascii_case(SPDY) => {
            let asked: Vec<_> = values(headers, &PROTOCOL_VERSION).collect();
            if asked.is_empty() {
                return Err(bad(
                    "unable to upgrade: the header X-Stream-Protocol-Version is missing or empty",
                ));
            }
            first_common(&asked, offer.spdy).map(Upgrade::Spdy)
        }
        Some(to) if connection && to.eq_ignore_ascii_case(WEBSOCKET) => {
            let key = headers.get(SEC_WEBSOCKET_KEY).and_then(|key| key.to_str().ok());
            let key = key.ok_or_else(|| bad("unable to upgrade: the header Sec-WebSocket-Key is missing"))?;
            let asked: Vec<_> = values(headers, &SEC_WEBSOCKET_PROTOCOL).collect();
            let protocol = match asked.is_empty() {
                true => None,
                false => Some(first_common(&asked, offer.websocket)?),
            };
            Ok(Upgrade::WebSocket(protocol, accept_key(key)))
        }
        _ => Err(bad("unable to upgrade: the request asks for neither SPDY/3.1 nor a WebSocket")),
    }
}

fn first_common(asked: &[&str], offered: &'static [&'static str]) -> Result<&'static str, Refusal> {
    let known = |asked: &&str| offered.iter().copied().find(|offered| offered == asked);
    asked.iter().find_map(known).ok_or_else(|| Refusal {
        status: StatusCode::FORBIDDEN,
        text: format!(
            "unable to upgrade: the client speaks {}, the server {}",
            asked.join(", "),
            offered.join(", ")
        ),
        accepted: offered,
    })
}

/// The values of a header that is a list, whether in one line or several.
fn values<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    let lines = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    lines.flat_map(|line| line.split(',')).map(str::trim).filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    const OFFER: Offer = Offer { spdy: &["v4", "v3"], websocket: &["v5.channel"] };

    fn ask(headers: &[(&str, &str)]) -> Result<Upgrade, Refusal> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
        }
        negotiate(&map, &OFFER)
    }

    #[test]
    fn the_clients_first_protocol_that_is_known_is_chosen() {
        let spdy = [("connection", "keep-alive, Upgrade"), ("upgrade", "SPDY/3.1")];
        let with = |more: &[(&'static str, &'static str)]| ask(&[&spdy[..], more].concat());
        assert_eq!(with(&[("x-stream-protocol-version", "v9, v3,v4")]), Ok(Upgrade::Spdy("v3")));
        let two = [("x-stream-protocol-version", "v9"), ("x-stream-protocol-version", "v4")];
        assert_eq!(with(&two), Ok(Upgrade::Spdy("v4")));
        assert_eq!(with(&[]).unwrap_err().status, StatusCode::BAD_REQUEST);
        let refused = with(&[("x-stream-protocol-version", "v9")]).unwrap_err();
        assert_eq!(refused.status, StatusCode::FORBIDDEN);
        let accepted: Vec<_> =
            refused.response().headers().get_all(ACCEPTED_VERSIONS).iter().cloned().collect();
        assert_eq!(accepted, ["v4", "v3"]);
        assert_eq!(ask(&[("upgrade", "SPDY/3.1")]).unwrap_err().status, StatusCode::BAD_REQUEST);
        assert_eq!(ask(&[]).unwrap_err().status, StatusCode::BAD_REQUEST);
    }

    #[test]
    fn a_websocket_may_name_no_protocol() {
        let base = [("connection", "Upgrade"), ("upgrade", "WebSocket"), ("sec-websocket-key", "x")];
        let chosen = ask(&base).unwrap();
        assert!(matches!(chosen, Upgrade::WebSocket(None, _)));
        assert_eq!(chosen.response().status(), StatusCode::SWITCHING_PROTOCOLS);
        let with = |protocol| ask(&[&base[..], &[("sec-websocket-protocol", protocol)]].concat());
        assert!(matches!(with("x, v5.channel"), Ok(Upgrade::WebSocket(Some("v5.channel"), _))));
        assert_eq!(with("x").unwrap_err().status, StatusCode::FORBIDDEN);
        assert_eq!(ask(&base[..2]).unwrap_err().status, StatusCode::BAD_REQUEST);
    }
}
