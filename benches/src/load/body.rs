//! The requests that are sent: chat bodies of an exact size, made of text as clients send it, with newlines, quotes and
//! non-ASCII escapes, since a proxy that looks for the end of a string has to look at those.

use std::fmt::Write as _;
use std::net::SocketAddr;

use bytes::Bytes;

/// Words of the prompts; what they say does not matter, their lengths and escapes do: about one escape in 50 bytes, as
/// in text with line breaks, some quotes and some letters beyond ASCII.
const WORDS: [&str; 32] = [
    "the",
    "cache",
    "of",
    "every",
    "block",
    "is",
    "read",
    "twice",
    "and",
    "then",
    "prefill",
    "hands",
    "it",
    "over",
    "to",
    "decode",
    "which",
    "answers",
    "a",
    "client",
    "that",
    "waits",
    "caf\\u00e9",
    "\\\"quoted\\\"",
    "line\\n",
    "for",
    "tokens",
    "while",
    "others",
    "come",
    "in",
    "a/b",
];

/// Bytes of text in one message before the next begins: a long conversation has many messages of a few kilobytes.
const MESSAGE_BYTES: usize = 4096;

/// A chat completion body of exactly `bytes` bytes (at least about 200). Messages come first, as the usual clients
/// send them; `members` are the members behind them, such as `"stream":true`.
pub fn chat(bytes: usize, members: &str) -> String {
    let open = r#"{"messages":[{"role":"system","content":"You answer briefly."},{"role":"user","content":""#;
    let close = format!("\"}}],\"model\":\"tiny\",\"temperature\":0.7,{members}}}");
    let mut body = String::with_capacity(bytes.max(256));
    body.push_str(open);
    let mut message = body.len();
    let mut assistant = true;
    // A fixed linear congruential sequence: the same text in every run.
    let mut state: u32 = 1;
    while body.len() + close.len() + 128 < bytes {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        body.push_str(WORDS[(state >> 27) as usize]);
        body.push(' ');
        if body.len() - message > MESSAGE_BYTES {
            let role = if assistant { "assistant" } else { "user" };
            write!(body, "\"}},{{\"role\":\"{role}\",\"content\":\"")
                .expect("writing to a String cannot fail");
            assistant = !assistant;
            message = body.len();
        }
    }
    while body.len() + close.len() < bytes {
        body.push('.');
    }
    body.push_str(&close);
    body
}

/// A whole POST of a JSON body to `address`. `headers` are complete lines, each ended by CRLF.
pub fn post(address: SocketAddr, path: &str, headers: &str, body: &str) -> Bytes {
    let length = body.len();
    Bytes::from(format!(
        "POST {path} HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\naccept: */*\r\n\
         user-agent: kvferry-bench\r\n{headers}content-length: {length}\r\n\r\n{body}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_have_the_exact_size_and_are_json() {
        for bytes in [1024, 32 * 1024, 220 * 1024, 2 * 1024 * 1024] {
            let body = chat(bytes, r#""stream":true"#);
            assert_eq!(body.len(), bytes);
            let value: serde_json::Value = serde_json::from_str(&body).unwrap();
            assert_eq!(value["stream"], true);
            assert_eq!(value["messages"][0]["role"], "system");
        }
    }

    #[test]
    fn long_bodies_hold_escapes_and_many_messages() {
        let body = chat(32 * 1024, r#""stream":false"#);
        assert!(body.contains("\\u00e9") && body.contains("\\n") && body.contains("\\\""));
        let value: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert!(value["messages"].as_array().unwrap().len() > 5);
    }

    #[test]
    fn the_head_tells_the_length_of_the_body() {
        let request = post("127.0.0.1:80".parse().unwrap(), "/x", "a: b\r\n", "{}");
        let text = std::str::from_utf8(&request).unwrap();
        assert!(text.starts_with("POST /x HTTP/1.1\r\n"));
        assert!(text.ends_with("\r\na: b\r\ncontent-length: 2\r\n\r\n{}"));
    }
}
