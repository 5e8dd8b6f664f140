//! Trace context over the wire, W3C's: taken from a request's headers, and put into those of a leg.
//!
//! Baggage and trace state are other systems' data. They are carried as they came.

use std::borrow::Cow;
use std::iter;
use std::ops::Range;
use std::str;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::Context;
use opentelemetry::propagation::{Extractor, TextMapPropagator};
use opentelemetry::trace::{SpanContext, SpanId, TraceContextExt, TraceId};
use opentelemetry_sdk::propagation::TraceContextPropagator;

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
const BAGGAGE: HeaderName = HeaderName::from_static("baggage");

/// Where the ids stand in a `traceparent` of version 0.
const TRACE_DIGITS: Range<usize> = 3..35;
const SPAN_DIGITS: Range<usize> = 36..52;

/// What is carried along unread. Nothing is allocated when nothing came.
#[derive(Debug, Clone, Default)]
pub(crate) struct Carried(Option<Arc<Others>>);

#[derive(Debug)]
struct Others {
    trace_state: Option<HeaderValue>,
    baggage: Option<HeaderValue>,
}

/// Takes the client's context from its headers: the parent, if there is one that is valid, and what is to be carried
/// along.
pub(crate) fn extract(headers: &HeaderMap) -> (Option<SpanContext>, Carried) {
    let mut context = None;
    let mut trace_state = None;
    let mut parents = headers.get_all(TRACEPARENT).iter();
    // Two parents are none.
    if let (Some(parent), None) = (parents.next(), parents.next())
        && let Ok(parent) = parent.to_str()
    {
        let state = joined(headers, &TRACESTATE);
        let state = state.as_deref().and_then(|state| state.to_str().ok());
        let incoming = Incoming { parent, state };
        let found = TraceContextPropagator::new().extract_with_context(&Context::new(), &incoming);
        context = Some(found.span().span_context().clone()).filter(SpanContext::is_valid);
        let state = context.as_ref().map(|context| context.trace_state().header());
        trace_state = state.filter(|state| !state.is_empty()).and_then(|state| state.try_into().ok());
    }
    let baggage = joined(headers, &BAGGAGE).map(Cow::into_owned);
    if trace_state.is_none() && baggage.is_none() {
        return (context, Carried(None));
    }
    (context, Carried(Some(Arc::new(Others { trace_state, baggage }))))
}

/// All values of a header as one list.
fn joined<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<Cow<'a, HeaderValue>> {
    let mut values = headers.get_all(name).iter();
    let first = values.next()?;
    let mut values = values.peekable();
    if values.peek().is_none() {
        return Some(Cow::Borrowed(first));
    }
    let mut list = first.as_bytes().to_vec();
    for value in values {
        list.push(b',');
        list.extend_from_slice(value.as_bytes());
    }
    let list = HeaderValue::from_bytes(&list).expect("header values joined by commas are a header value");
    Some(Cow::Owned(list))
}

/// What whoever is below the span of this `traceparent` is told.
pub(crate) fn told(
    traceparent: HeaderValue,
    carried: &Carried,
) -> impl Iterator<Item = (HeaderName, HeaderValue)> {
    let others = carried.0.as_deref();
    let state = others.and_then(|others| others.trace_state.clone());
    let baggage = others.and_then(|others| others.baggage.clone());
    let others =
        state.map(|state| (TRACESTATE, state)).into_iter().chain(baggage.map(|list| (BAGGAGE, list)));
    iter::once((TRACEPARENT, traceparent)).chain(others)
}

/// Takes out what belongs to another parent.
pub(crate) fn forget(headers: &mut HeaderMap) {
    headers.remove(TRACESTATE);
}

/// By hand, since every request gets one. Clones share the text.
pub(crate) fn traceparent(trace: TraceId, span: SpanId, sampled: bool) -> HeaderValue {
    let mut text = *b"00-00000000000000000000000000000000-0000000000000000-00";
    write_hex(&mut text[TRACE_DIGITS], &trace.to_bytes());
    write_hex(&mut text[SPAN_DIGITS], &span.to_bytes());
    if sampled {
        text[text.len() - 1] = b'1';
    }
    HeaderValue::from_maybe_shared(Bytes::from_owner(text))
        .expect("hexadecimal digits and hyphens are a header value")
}

/// A trace's id as it is written: 32 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceIdText([u8; TRACE_DIGITS.end - TRACE_DIGITS.start]);

impl TraceIdText {
    pub(crate) fn new(trace: TraceId) -> Self {
        let mut digits = [0; TRACE_DIGITS.end - TRACE_DIGITS.start];
        write_hex(&mut digits, &trace.to_bytes());
        Self(digits)
    }

    /// The one in a `traceparent` of ours.
    pub(crate) fn of(traceparent: &HeaderValue) -> Option<Self> {
        traceparent.as_bytes().get(TRACE_DIGITS)?.try_into().ok().map(Self)
    }

    /// The digits.
    pub fn as_str(&self) -> &str {
        str::from_utf8(&self.0).expect("hexadecimal digits are UTF-8")
    }
}

fn write_hex(digits: &mut [u8], bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for (pair, byte) in digits.chunks_exact_mut(2).zip(bytes) {
        pair[0] = DIGITS[usize::from(byte >> 4)];
        pair[1] = DIGITS[usize::from(byte & 0xf)];
    }
}

struct Incoming<'a> {
    parent: &'a str,
    state: Option<&'a str>,
}

impl Extractor for Incoming<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        match key {
            "traceparent" => Some(self.parent),
            "tracestate" => self.state,
            _ => None,
        }
    }

    fn keys(&self) -> Vec<&str> {
        vec!["traceparent", "tracestate"]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_written_as_they_are_displayed() {
        let trace = TraceId::from(0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c);
        let span = SpanId::from(0xb7ad_6b71_6920_3331);
        for (sampled, flags) in [(true, "01"), (false, "00")] {
            let written = traceparent(trace, span, sampled);
            assert_eq!(written, format!("00-{trace}-{span}-{flags}"));
            assert_eq!(TraceIdText::of(&written).unwrap().as_str(), trace.to_string());
        }
        assert_eq!(TraceIdText::new(trace).as_str(), trace.to_string());
    }
}
