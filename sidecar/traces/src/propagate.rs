//! Trace context over the wire, W3C's: taken from a request's headers, and put into those of a leg.
//!
//! Baggage and trace state are other systems' data. They are carried as they came.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

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

/// Takes the client's context from its headers: the parent, empty if there is none that is valid, and what is to be
/// carried along.
pub(crate) fn extract(headers: &HeaderMap) -> (Context, Carried) {
    let mut context = Context::new();
    let mut trace_state = None;
    let mut parents = headers.get_all(TRACEPARENT).iter();
    // Two parents are none.
    if let (Some(parent), None) = (parents.next(), parents.next())
        && let Ok(parent) = parent.to_str()
    {
        let state = joined(headers, &TRACESTATE);
        let state = state.as_deref().and_then(|state| state.to_str().ok());
        let incoming = Incoming { parent, state };
        context = TraceContextPropagator::new().extract_with_context(&context, &incoming);
        let valid = context.span().span_context().trace_state().header();
        trace_state = Some(valid).filter(|state| !state.is_empty()).and_then(|state| state.try_into().ok());
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

/// Makes the span with these ids the parent of whoever gets these headers.
pub(crate) fn inject(
    headers: &mut HeaderMap,
    trace: TraceId,
    span: SpanId,
    sampled: bool,
    carried: &Carried,
) {
    headers.insert(TRACEPARENT, traceparent(trace, span, sampled));
    let others = carried.0.as_deref();
    // A state belongs to the parent that it came with.
    match others.and_then(|others| others.trace_state.clone()) {
        Some(state) => headers.insert(TRACESTATE, state),
        None => headers.remove(TRACESTATE),
    };
    if let Some(baggage) = others.and_then(|others| others.baggage.clone()) {
        headers.insert(BAGGAGE, baggage);
    }
}

/// By hand, since every leg of every request gets one.
fn traceparent(trace: TraceId, span: SpanId, sampled: bool) -> HeaderValue {
    let mut text = *b"00-00000000000000000000000000000000-0000000000000000-00";
    write_hex(&mut text[TRACE_DIGITS], &trace.to_bytes());
    write_hex(&mut text[SPAN_DIGITS], &span.to_bytes());
    if sampled {
        text[text.len() - 1] = b'1';
    }
    HeaderValue::from_bytes(&text).expect("hexadecimal digits and hyphens are a header value")
}

fn write_hex(digits: &mut [u8], bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for (pair, byte) in digits.chunks_exact_mut(2).zip(bytes) {
        pair[0] = DIGITS[usize::from(byte >> 4)];
        pair[1] = DIGITS[usize::from(byte & 0xf)];
    }
}

/// A context in which this span is the parent.
pub(crate) fn child_of(span: &SpanContext) -> Context {
    Context::new().with_remote_span_context(span.clone())
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
            assert_eq!(traceparent(trace, span, sampled), format!("00-{trace}-{span}-{flags}"));
        }
    }
}
