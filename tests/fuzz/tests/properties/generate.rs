//! Inputs made by grammar: mostly right, so that they get past the first check, and wrong in one place now and then.

use kvferry_config::GROUPS;
use proptest::collection::vec;
use proptest::prelude::*;

/// One time in how many a generated text is broken somewhere.
const BROKEN_ONE_IN: u32 = 4;

/// JSON objects with the members that connectors edit, in any spelling.
pub(crate) fn json() -> BoxedStrategy<Vec<u8>> {
    let space = || "[ \t\r\n]{0,2}";
    let member = (space(), key(), space(), space(), value(), space())
        .prop_map(|(a, key, b, c, value, d)| format!("{a}{key}{b}:{c}{value}{d}"));
    let object = (space(), vec(member, 0..8), space())
        .prop_map(|(before, members, after)| format!("{before}{{{}}}{after}", members.join(",")));
    maybe_broken(object.boxed())
}

fn key() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => prop::sample::select(vec![
            r#""stream""#, r#""str\u0065am""#, r#""n""#, r#""\u006E""#, r#""max_tokens""#, r#""max\u005ftokens""#,
            r#""kv_transfer_params""#, r#""usage""#, r#""prompt_tokens_details""#, r#""cached_tokens""#, r#""""#,
            r#""streams""#, r#""strea""#, r#""\ud83d\ude00""#, r#""\ud800""#, r#""stream\"""#,
        ]).prop_map(str::to_owned),
        1 => "\"[a-zé漢 ,:{}\\[\\]]{0,40}\"",
    ]
}

fn value() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        prop::sample::select(vec!["null", "true", "false", r#""\\\"\/\b\f\n\r\t\u00e9""#, "{}", "[]", "[ ]"])
            .prop_map(str::to_owned),
        "-?(0|[1-9][0-9]{0,30})(\\.[0-9]{1,4})?([eE][+-]?[0-9]{1,3})?",
        "\"[a-zé漢😀 ,:{}\\[\\]]{0,90}\"",
    ];
    leaf.prop_recursive(5, 40, 5, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..5).prop_map(|items| format!("[{}]", items.join(" ,"))),
            vec((key(), inner), 0..5).prop_map(|members| {
                let members: Vec<String> =
                    members.into_iter().map(|(key, value)| format!("{key} : {value}")).collect();
                format!("{{ {}}}", members.join(", "))
            }),
        ]
    })
}

/// Event streams with lines to edit, lines that look alike, and lines too long to be held.
pub(crate) fn events() -> BoxedStrategy<Vec<u8>> {
    let line = prop_oneof![
        3 => prop::sample::select(vec![
            r#"data: {"usage":{"a":1}}"#, r#"data:{"usage":null}"#, r#"data:  {"usage":1}"#, r#"data: "usage""#,
            "data: [DONE]", ": ping", "event: \"usage\"", "", "data", "data:", " data: {\"usage\":1}", r#"data: {"usage":"~~~~~"}"#,
            r#"data: {"usage":"~~"}"#, "~~~~~",
        ]).prop_map(str::to_owned),
        1 => "[ -~]{0,60}",
    ];
    let end = prop::sample::select(vec!["\n", "\n", "\r\n", "\r", "\n\n", ""]);
    let lines = vec((line, end), 0..12)
        .prop_map(|lines| lines.into_iter().map(|(line, end)| line + end).collect::<String>());
    maybe_broken(lines.boxed())
}

/// Heads of requests with everything that is read, removed or added.
pub(crate) fn head() -> BoxedStrategy<Vec<u8>> {
    let name = prop_oneof![
        6 => prop::sample::select(vec![
            "x-prefiller-host-port", "X-Prefiller-Host-Port", "x-llm-d-prefiller-host-port", "x-encoder-hosts-ports",
            "x-llm-d-encoder-hosts-ports", "x-kv-cache-source-host-port", "x-llm-d-kv-cache-source-host-port",
            "x-data-parallel-host-port", "x-speculative-prefill", "connection", "te", "upgrade", "keep-alive",
            "transfer-encoding", "trailer", "proxy-authorization", "x-forwarded-for", "x-request-id", "host", "accept",
        ]).prop_map(str::to_owned),
        1 => "[a-zA-Z-]{1,12}",
    ];
    let value = prop_oneof![
        3 => vec(endpoint(), 1..4).prop_map(|list| list.join(",")),
        2 => vec(prop::sample::select(vec![
            "close", "keep-alive", "Upgrade", "te", "trailers", "gzip;q=0.5", "x-request-id", "connection", "", " ",
            "x-prefiller-host-port", "chunked", "websocket", "10.0.0.1",
        ]), 1..5).prop_map(|list| list.join(", ")),
        1 => "[ -~\t]{0,30}",
    ];
    let line = (name, value).prop_map(|(name, value)| format!("{name}: {value}\r\n"));
    maybe_broken(vec(line, 0..10).prop_map(|lines| lines.concat()).boxed())
}

fn endpoint() -> impl Strategy<Value = String> {
    let host = prop_oneof![
        "[a-z0-9._-]{0,12}",
        Just("127.0.0.1".to_owned()),
        "\\[[0-9a-f:]{0,12}\\]",
        Just("[fe80::1%eth0]".to_owned()),
        "[ -~]{0,8}",
    ];
    let port = prop_oneof!["[0-9]{0,6}", Just("8000".to_owned()), Just("+80".to_owned())];
    ("(http://|https://| |)", host, port).prop_map(|(scheme, host, port)| format!("{scheme}{host}:{port}"))
}

/// Configurations in YAML and JSON, of known keys and some that are not.
pub(crate) fn yaml() -> BoxedStrategy<Vec<u8>> {
    let names: Vec<&str> = GROUPS.iter().flat_map(|group| group.flags).map(|flag| flag.name).collect();
    let key = prop_oneof![
        12 => prop::sample::select(names).prop_map(str::to_owned),
        1 => "[a-z-]{0,12}",
    ];
    let scalar = || {
        prop_oneof![
            3 => prop::sample::select(vec![
                "true", "false", "yes", "off", "~", "0", "1", "8000", "65535", "65536", "-1", "0.5", "1e3", ".inf", "nixlv2",
                "30s", "1m30s", "-5s", "1.5h", "'8000'", "\"\"", "prefiller", "default/pool", "info", "|\n  a\n  b", "!!str 1",
            ]).prop_map(str::to_owned),
            1 => "[a-z0-9:/._-]{0,20}",
            1 => "\"[ -~]{0,12}\"",
        ]
    };
    let value = prop_oneof![
        5 => scalar(),
        1 => vec(scalar(), 0..4).prop_map(|items| format!("[{}]", items.join(", "))),
        1 => vec("[a-z0-9:.]{1,12}", 1..4).prop_map(|items| format!("\n  - {}", items.join("\n  - "))),
    ];
    let line = (key, value).prop_map(|(key, value)| format!("{key}: {value}\n"));
    let lines = vec(line, 0..6).prop_map(|lines| lines.concat());
    maybe_broken(lines.boxed())
}

/// The bytes of a text; sometimes with one byte replaced or the end cut off.
fn maybe_broken(text: BoxedStrategy<String>) -> BoxedStrategy<Vec<u8>> {
    (text, any::<prop::sample::Index>(), any::<u8>(), 0..BROKEN_ONE_IN * 2)
        .prop_map(|(text, at, byte, how)| {
            let mut bytes = text.into_bytes();
            if !bytes.is_empty() {
                let at = at.index(bytes.len());
                match how {
                    0 => bytes[at] = byte,
                    1 => bytes.truncate(at),
                    _ => {}
                }
            }
            bytes
        })
        .boxed()
}
