//! Target `headers`: any lines as the head of a request, one `name: value` a line.
//!
//! What holds: nothing panics; after each step the headers that it is to remove are gone and all others are as they
//! were, in their order; a second time changes nothing; an endpoint that is accepted can be dialled and prints back.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::request_headers::{
    Routing, asks_upgrade, ensure_host, ensure_request_id, forwarded_for, one_request_id, strip_hop_by_hop,
    strip_hop_by_hop_response, unshared,
};
use http::header::{CONNECTION, HOST, TE, TRAILER, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue};
use kvferry_contract::{Endpoint, headers as contract};

/// Headers that never leave their hop, whatever `connection` says (RFC 9110, section 7.6.1).
const ONE_HOP: [&str; 5] =
    ["keep-alive", "proxy-connection", "proxy-authenticate", "proxy-authorization", "transfer-encoding"];

/// Most lines of one input, so that a map cannot reach its own limit and panic in the target's name.
const MAX_LINES: usize = 200;

/// Checks one head.
pub fn headers(data: &[u8]) {
    let head = read(data);
    routing_headers_are_taken_whole(&head);
    for keep_upgrade in [false, true] {
        one_hop_headers_stay(&head, keep_upgrade);
    }
    one_hop_headers_of_an_answer_stay(&head);
    for client in [
        IpAddr::from(Ipv4Addr::LOCALHOST),
        Ipv4Addr::new(10, 0, 0, 7).to_ipv6_mapped().into(),
        Ipv6Addr::LOCALHOST.into(),
    ] {
        the_client_is_named_last(&head, client);
    }
    one_request_id_goes_on(&head);
    one_host_goes_on(&head);
    for value in head.values() {
        assert_eq!(unshared(value), value);
        an_endpoint_prints_back(&String::from_utf8_lossy(value.as_bytes()));
    }
    an_endpoint_prints_back(&String::from_utf8_lossy(data));
}

/// The lines that an HTTP parser would let through.
fn read(data: &[u8]) -> HeaderMap {
    let mut head = HeaderMap::new();
    for line in data.split(|byte| *byte == b'\n').take(MAX_LINES) {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
        let name = HeaderName::from_bytes(&line[..colon]);
        let value = HeaderValue::from_bytes(line[colon + 1..].trim_ascii());
        if let (Ok(name), Ok(value)) = (name, value) {
            head.append(name, value);
        }
    }
    head
}

/// The lines that `keep` chooses, each with its name, in order.
fn lines(head: &HeaderMap, keep: impl Fn(&HeaderName) -> bool) -> Vec<(HeaderName, HeaderValue)> {
    let mut lines: Vec<_> = head
        .iter()
        .filter(|(name, _)| keep(name))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    // Only the order among lines of one name means anything; a stable sort keeps that.
    lines.sort_by(|(one, _), (other, _)| one.as_str().cmp(other.as_str()));
    lines
}

fn is_routing(name: &HeaderName) -> bool {
    contract::ALL.iter().any(|header| *name == header.old || *name == header.new)
}

fn routing_headers_are_taken_whole(head: &HeaderMap) {
    let mut rest = head.clone();
    let routing = Routing::take(&mut rest);
    assert_eq!(lines(&rest, is_routing), [], "routing headers go on");
    assert_eq!(lines(&rest, |_| true), lines(head, |name| !is_routing(name)), "others were touched");
    assert_eq!(Routing::take(&mut rest), Routing::default(), "something was left to take");
    let Some(primary) = routing.prefill.first() else { return };
    assert!(!primary.is_empty(), "an empty primary is nobody");
    for candidate in &routing.prefill {
        assert_eq!(candidate, candidate.trim());
    }
    // A forged new spelling never counts beside the old one.
    let name = contract::PREFILLER;
    if head.contains_key(name.old) {
        let mut old_alone = head.clone();
        old_alone.remove(name.new);
        assert_eq!(Routing::take(&mut old_alone).prefill, routing.prefill);
    }
}

/// Names that `connection` lists.
fn named_by_connection(head: &HeaderMap) -> HashSet<HeaderName> {
    let lists = head.get_all(CONNECTION).iter().filter_map(|value| value.to_str().ok());
    lists.flat_map(|list| list.split(',')).filter_map(|name| name.trim().parse().ok()).collect()
}

fn one_hop_headers_stay(head: &HeaderMap, keep_upgrade: bool) {
    let mut rest = head.clone();
    strip_hop_by_hop(&mut rest, keep_upgrade);
    let named = named_by_connection(head);
    let kept = |name: &HeaderName| keep_upgrade && (*name == UPGRADE || *name == CONNECTION);
    let stays = |name: &HeaderName| {
        let one_hop = ONE_HOP.contains(&name.as_str())
            || *name == CONNECTION
            || *name == UPGRADE
            || named.contains(name);
        !one_hop || (kept(name) && !(named.contains(name) && *name == CONNECTION))
    };
    let but_te = |name: &HeaderName| *name != TE && stays(name);
    assert_eq!(lines(&rest, |name| *name != TE), lines(head, but_te), "keep_upgrade={keep_upgrade}");
    let te: Vec<_> = rest.get_all(TE).iter().collect();
    assert!(te.is_empty() || te == ["trailers"], "{te:?}");
    let once = rest.clone();
    strip_hop_by_hop(&mut rest, keep_upgrade);
    assert_eq!(lines(&rest, |_| true), lines(&once, |_| true), "a second time changes more");
    if !keep_upgrade {
        assert!(!asks_upgrade(&rest), "an upgrade is still asked for");
    }
}

fn one_hop_headers_of_an_answer_stay(head: &HeaderMap) {
    let mut rest = head.clone();
    strip_hop_by_hop_response(&mut rest);
    for name in ONE_HOP.iter().copied().chain([CONNECTION.as_str(), UPGRADE.as_str(), TE.as_str()]) {
        assert!(!rest.contains_key(name), "{name} goes on");
    }
    assert_eq!(rest.contains_key(TRAILER), head.contains_key(TRAILER), "the announcement of trailers");
}

fn the_client_is_named_last(head: &HeaderMap, client: IpAddr) {
    const NAME: &str = "x-forwarded-for";
    let mut rest = head.clone();
    forwarded_for(&mut rest, client);
    let list: Vec<_> = rest.get_all(NAME).iter().filter_map(|value| value.to_str().ok()).collect();
    let [list] = list[..] else { panic!("not one line: {list:?}") };
    let client = client.to_canonical().to_string();
    let before = head.get_all(NAME).iter().filter_map(|value| value.to_str().ok());
    let expected: Vec<&str> = before.chain([client.as_str()]).collect();
    assert_eq!(list, expected.join(", "));
    assert_eq!(lines(&rest, |name| *name != NAME), lines(head, |name| *name != NAME));
}

fn one_request_id_goes_on(head: &HeaderMap) {
    let ids = |head: &HeaderMap| head.get_all(contract::REQUEST_ID).iter().cloned().collect::<Vec<_>>();
    let other = |name: &HeaderName| *name != contract::REQUEST_ID;
    let mut rest = head.clone();
    let first = one_request_id(&mut rest);
    assert_eq!(first.as_ref(), head.get(contract::REQUEST_ID).filter(|id| !id.is_empty()));
    if let Some(first) = &first {
        assert_eq!(ids(&rest), [first]);
    }
    let id = ensure_request_id(&mut rest);
    assert_eq!(ids(&rest), [&id]);
    assert!(!id.is_empty());
    assert!(first.is_none_or(|first| first == id), "the client's id was replaced");
    assert_eq!(lines(&rest, other), lines(head, other));
}

fn one_host_goes_on(head: &HeaderMap) {
    const OTHERWISE: &str = "localhost:8200";
    let mut rest = head.clone();
    ensure_host(&mut rest, None, OTHERWISE);
    assert!(rest.contains_key(HOST));
    if let Some(authority) = head.get(HOST).and_then(|host| host.to_str().ok()?.parse().ok()) {
        ensure_host(&mut rest, Some(&authority), OTHERWISE);
        assert_eq!(rest.get_all(HOST).iter().collect::<Vec<_>>(), [authority.as_str()]);
    }
    assert_eq!(lines(&rest, |name| *name != HOST), lines(head, |name| *name != HOST));
}

fn an_endpoint_prints_back(text: &str) {
    let Ok(endpoint) = text.parse::<Endpoint>() else { return };
    assert_ne!(endpoint.port(), 0);
    let host = endpoint.host();
    let is_name = !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b));
    // Which zones there are is the resolver's matter, but none needs escaping.
    let (address, zone) = host.split_once('%').unwrap_or((host, "eth0"));
    assert!(!zone.is_empty() && zone.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~".contains(&b)));
    assert!(is_name || address.parse::<Ipv6Addr>().is_ok(), "{host:?} is neither a name nor an address");
    assert_eq!(endpoint.to_string().parse(), Ok(endpoint.clone()), "{text:?}");
    assert_eq!(format!(" http://{endpoint} ").parse(), Ok(endpoint));
}
