//! Requests that are wrong, too large, never complete or mean to deceive: each gets a clear answer of its own, costs the
//! engines nothing and leaves nothing behind.

#![expect(clippy::unwrap_used, reason = "a test may stop at what cannot be")]

#[path = "../common/mod.rs"]
mod common;

mod framing;
mod heads;
mod json;
mod size;
mod smuggling;

use common::{Raw, Rig};

/// The head of a request that is to be disaggregated; `more` are whole header lines.
fn head(rig: &Rig, more: &str) -> String {
    let target = rig.prefill.host_port();
    format!("POST /v1/completions HTTP/1.1\r\nhost: a\r\nx-prefiller-host-port: {target}\r\n{more}\r\n")
}

/// Checks that an error answer of the sidecar's own comes, and that the connection ends after it.
async fn refused(client: &mut Raw, status: u16, code: &str) {
    let answer = client.until(&format!("\"code\":{status}}}")).await;
    assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
    assert!(answer.contains(&format!("x-kvferry-error: {code}\r\n")), "{answer}");
    assert!(answer.contains("connection: close\r\n"), "{answer}");
    assert!(answer.contains("{\"object\":\"error\""), "{answer}");
    // A client that has read the answer and says so need not be waited for.
    client.finish_writing().await;
    assert_eq!(client.rest().await, "");
}

/// Ends a test in which no engine may have been asked anything.
async fn end_untouched(rig: Rig) {
    assert!(rig.prefill.requests().is_empty());
    assert!(rig.decode.requests().is_empty());
    assert_eq!(rig.end().await.handed_out, 0);
}
