//! Header hygiene: routing headers are read and removed, hop-by-hop headers stay on their hop, forwarding headers are
//! added, and upstream never sees more than one request id.

use std::net::IpAddr;

use http::header::{
    CONNECTION, HOST, HeaderMap, HeaderName, HeaderValue, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE,
    TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use http::uri::Authority;
use kvferry_contract::headers::{
    ALL, DATA_PARALLEL, ENCODERS, KV_SOURCE, PREFILLER, REQUEST_ID, RoutingHeader, SPECULATIVE_PREFILL,
};

const X_REQUEST_ID: HeaderName = HeaderName::from_static(REQUEST_ID);
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// What the routing headers ask for. Taking it removes every routing header, in both spellings.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Routing {
    /// Prefill candidates as they stand in the header, trimmed, the first one primary. Empty: no disaggregation.
    pub prefill: Vec<String>,
    /// Encode workers, trimmed.
    pub encoders: Vec<String>,
    /// The engine that already holds KV of this prompt; trimmed, not empty.
    pub kv_source: Option<String>,
    /// The data-parallel rank to use; trimmed, not empty.
    pub data_parallel: Option<String>,
    /// A chat's next turn is to be prefilled as far as it is known.
    pub speculative: bool,
}

impl Routing {
    /// Reads the routing headers and removes them all (spec/sidecar.md 2.3).
    pub fn take(headers: &mut HeaderMap) -> Self {
        let mut routing = Self::default();
        if ALL.iter().all(|header| !headers.contains_key(header.old) && !headers.contains_key(header.new)) {
            return routing;
        }
        routing.prefill = candidates(headers, PREFILLER);
        // The primary decides: an empty first entry means that nobody was chosen.
        if routing.prefill.first().is_none_or(String::is_empty) {
            routing.prefill.clear();
        }
        routing.encoders = candidates(headers, ENCODERS);
        routing.encoders.retain(|encoder| !encoder.is_empty());
        routing.kv_source = first_of(headers, KV_SOURCE);
        routing.data_parallel = first_of(headers, DATA_PARALLEL);
        routing.speculative =
            first_of(headers, SPECULATIVE_PREFILL).is_some_and(|value| value.eq_ignore_ascii_case("true"));
        for header in ALL {
            headers.remove(header.old);
            headers.remove(header.new);
        }
        routing
    }
}

/// The old spelling wins if it is there at all. One line is a comma list; several lines are the list themselves and are
/// not split further.
fn candidates(headers: &HeaderMap, header: RoutingHeader) -> Vec<String> {
    let name = if headers.contains_key(header.old) { header.old } else { header.new };
    let mut lines = headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes()));
    let (first, second) = (lines.next(), lines.next());
    let Some(first) = first else { return Vec::new() };
    match second {
        None => first.split(',').map(|entry| entry.trim().to_owned()).collect(),
        Some(second) => {
            [first, second].into_iter().chain(lines).map(|entry| entry.trim().to_owned()).collect()
        }
    }
}

/// The header's first value, trimmed; `None` if that is empty.
fn first_of(headers: &HeaderMap, header: RoutingHeader) -> Option<String> {
    let name = if headers.contains_key(header.old) { header.old } else { header.new };
    let value = String::from_utf8_lossy(headers.get(name)?.as_bytes());
    Some(value.trim().to_owned()).filter(|value| !value.is_empty())
}

/// Removes what belongs to one hop only (RFC 9110, section 7.6.1), except `te: trailers`, which asks for something that
/// is passed on. `keep_upgrade` leaves the two headers of a protocol upgrade.
pub fn strip_hop_by_hop(headers: &mut HeaderMap, keep_upgrade: bool) {
    if headers.contains_key(CONNECTION) {
        let named: Vec<HeaderName> = headers
            .get_all(CONNECTION)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .filter_map(|name| name.trim().parse().ok())
            .filter(|name| *name != TE && !(keep_upgrade && *name == UPGRADE))
            .collect();
        for name in named {
            headers.remove(name);
        }
        if !keep_upgrade {
            headers.remove(CONNECTION);
        }
    }
    for name in [KEEP_ALIVE, PROXY_CONNECTION, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TRANSFER_ENCODING] {
        headers.remove(name);
    }
    if !keep_upgrade {
        headers.remove(UPGRADE);
    }
    if let Some(te) = headers.get(TE) {
        let trailers = te
            .to_str()
            .is_ok_and(|te| te.split(',').any(|coding| coding.trim().eq_ignore_ascii_case("trailers")));
        headers.remove(TE);
        if trailers {
            headers.insert(TE, HeaderValue::from_static("trailers"));
        }
    }
}

/// Removes what belongs to one hop of a response. `trailer` stays: it announces fields that are passed on.
pub fn strip_hop_by_hop_response(headers: &mut HeaderMap) {
    let trailer: Option<HeaderValue> = headers.get(TRAILER).cloned();
    strip_hop_by_hop(headers, false);
    headers.remove(TE);
    if let Some(trailer) = trailer {
        headers.insert(TRAILER, trailer);
    }
}

/// Whether this asks to leave HTTP on its connection (a websocket, say).
pub fn asks_upgrade(headers: &HeaderMap) -> bool {
    headers.contains_key(UPGRADE)
        && headers
            .get_all(CONNECTION)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .any(|token| token.trim().eq_ignore_ascii_case("upgrade"))
}

/// Appends the client's address to `x-forwarded-for`, as one list in one line.
pub fn forwarded_for(headers: &mut HeaderMap, client: IpAddr) {
    // Dual-stack listeners see IPv4 clients as mapped addresses; say what the client would say of itself.
    let client = client.to_canonical().to_string();
    let before: Vec<&str> =
        headers.get_all(&X_FORWARDED_FOR).iter().filter_map(|value| value.to_str().ok()).collect();
    let list = if before.is_empty() { client } else { format!("{}, {client}", before.join(", ")) };
    if let Ok(list) = HeaderValue::from_str(&list) {
        headers.insert(X_FORWARDED_FOR, list);
    }
}

/// The request's id; at most one stays in `headers`, the first that came.
pub fn one_request_id(headers: &mut HeaderMap) -> Option<HeaderValue> {
    let first = headers.get(X_REQUEST_ID).filter(|id| !id.is_empty()).cloned()?;
    headers.insert(X_REQUEST_ID, first.clone());
    Some(first)
}

/// The same value in a buffer of its own. A header value is a slice of the buffer that its whole head was read into, and
/// would keep that alive for as long as the answer flows.
pub fn unshared(value: &HeaderValue) -> HeaderValue {
    HeaderValue::from_bytes(value.as_bytes()).expect("the bytes of a header value are a header value")
}

/// Gives the request an id of ours if it came without one.
pub fn ensure_request_id(headers: &mut HeaderMap) -> HeaderValue {
    one_request_id(headers).unwrap_or_else(|| {
        let mut text = [0_u8; uuid::fmt::Hyphenated::LENGTH];
        let text = uuid::Uuid::new_v4().as_hyphenated().encode_lower(&mut text);
        let id = HeaderValue::from_str(text).expect("a UUID is printable ASCII");
        headers.insert(X_REQUEST_ID, id.clone());
        id
    })
}

/// Upstream sees the host that the client asked for. An authority in the target overrides the field (RFC 9112, section
/// 3.2.2); HTTP/2 clients have nothing else.
pub fn ensure_host(headers: &mut HeaderMap, authority: Option<&Authority>, otherwise: &str) {
    if authority.is_none() && headers.contains_key(HOST) {
        return;
    }
    let host = authority.map_or(otherwise, Authority::as_str);
    if let Ok(host) = HeaderValue::from_str(host) {
        headers.insert(HOST, host);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in lines {
            map.append(*name, HeaderValue::from_static(value));
        }
        map
    }

    fn prefill(lines: &[(&'static str, &'static str)]) -> Vec<String> {
        let mut headers = map(lines);
        let routing = Routing::take(&mut headers);
        assert!(headers.is_empty(), "routing headers are left: {headers:?}");
        routing.prefill
    }

    #[test]
    fn prefill_candidates_are_read_in_both_spellings_the_old_one_first() {
        let old = "x-prefiller-host-port";
        let new = "x-llm-d-prefiller-host-port";
        for (lines, expected) in [
            (vec![], vec![]),
            (vec![(old, "")], vec![]),
            (vec![(old, "  ")], vec![]),
            (vec![(old, "a:1")], vec!["a:1"]),
            (vec![(old, " a:1 , b:2")], vec!["a:1", "b:2"]),
            (vec![(old, "a:1"), (old, " b:2,c:3 ")], vec!["a:1", "b:2,c:3"]),
            (vec![(new, "a:1")], vec!["a:1"]),
            (vec![(new, "forged:1"), (old, "a:1")], vec!["a:1"]),
            (vec![(new, "forged:1"), (old, "")], vec![]),
            (vec![(old, ",b:2")], vec![]),
        ] {
            assert_eq!(prefill(&lines), expected, "{lines:?}");
        }
    }

    #[test]
    fn every_routing_header_is_removed_in_both_spellings() {
        let mut headers = map(&[
            ("x-encoder-hosts-ports", "a:1"),
            ("x-llm-d-encoder-hosts-ports", "a:1"),
            ("x-kv-cache-source-host-port", "a:1"),
            ("x-llm-d-kv-cache-source-host-port", "a:1"),
            ("x-data-parallel-host-port", "a:1"),
            ("x-speculative-prefill", "true"),
            ("authorization", "Bearer x"),
        ]);
        Routing::take(&mut headers);
        assert_eq!(headers, map(&[("authorization", "Bearer x")]));
    }

    #[test]
    fn a_next_turn_is_prefilled_for_who_says_true() {
        for (value, expected) in [
            ("true", true),
            (" True ", true),
            ("false", false),
            ("", false),
            ("1", false),
            ("true,true", false),
        ] {
            let routing = Routing::take(&mut map(&[("x-speculative-prefill", value)]));
            assert_eq!(routing.speculative, expected, "{value:?}");
        }
    }

    #[test]
    fn hop_by_hop_headers_stay_on_their_hop() {
        let mut headers = map(&[
            ("connection", "close, X-Secret"),
            ("connection", "keep-alive"),
            ("x-secret", "1"),
            ("keep-alive", "timeout=5"),
            ("proxy-authorization", "Basic x"),
            ("proxy-connection", "keep-alive"),
            ("te", "gzip, Trailers"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("accept", "*/*"),
        ]);
        strip_hop_by_hop(&mut headers, false);
        assert_eq!(headers, map(&[("accept", "*/*"), ("te", "trailers")]));
    }

    #[test]
    fn an_upgrade_keeps_its_two_headers() {
        let mut headers = map(&[("connection", "Upgrade"), ("upgrade", "websocket"), ("keep-alive", "1")]);
        assert!(asks_upgrade(&headers));
        strip_hop_by_hop(&mut headers, true);
        assert_eq!(headers, map(&[("connection", "Upgrade"), ("upgrade", "websocket")]));
        assert!(!asks_upgrade(&map(&[("upgrade", "websocket")])));
    }

    #[test]
    fn the_client_is_appended_to_the_forwarding_list() {
        let mut headers = map(&[("x-forwarded-for", "1.1.1.1"), ("x-forwarded-for", "2.2.2.2")]);
        forwarded_for(&mut headers, "::ffff:3.3.3.3".parse().unwrap());
        assert_eq!(headers, map(&[("x-forwarded-for", "1.1.1.1, 2.2.2.2, 3.3.3.3")]));
    }

    #[test]
    fn there_is_never_more_than_one_request_id() {
        let mut headers = map(&[("x-request-id", "one"), ("x-request-id", "two")]);
        assert_eq!(ensure_request_id(&mut headers), "one");
        assert_eq!(headers, map(&[("x-request-id", "one")]));
        let mut headers = map(&[]);
        let id = ensure_request_id(&mut headers);
        assert_eq!(headers.get_all("x-request-id").iter().collect::<Vec<_>>(), [&id]);
        assert_eq!(id.len(), 36);
    }
}
