//! Bodies that are no JSON object.

use super::end_untouched;
use crate::common::{APIS, Ask, Client, Protocol, Rig};

#[tokio::test]
async fn what_is_no_json_object_is_refused_with_its_place() {
    let rig = Rig::start().await;
    // One connection for all: an error of the client's leaves it usable.
    let mut client = Client::connect(rig.address(), Protocol::Http1).await;
    let end = "unexpected end";
    let object = "must be a JSON object";
    let utf8 = "not valid UTF-8";
    for (body, message) in [
        (&b""[..], end),
        (b" \r\n\t", end),
        (b"{", end),
        (b"{\"a\"", end),
        (b"{\"a\":", end),
        (b"{\"a\":1", end),
        (b"{\"a\":1,", end),
        (b"{\"a\":\"b", end),
        (b"{\"a\":tru", end),
        (b"{\"a\":[{\"b\":1}", end),
        (b"null", object),
        (b"true", object),
        (b"17", object),
        (b"\"text\"", object),
        (b"[{\"a\":1}]", object),
        (b"{\"a\":1}x", "after the JSON object at byte 7"),
        (b"{\"a\":1}{}", "after the JSON object at byte 7"),
        (b"{\"a\":1}\0", "after the JSON object at byte 7"),
        (b"{'a':1}", "byte 1"),
        (b"{a:1}", "byte 1"),
        (b"{\"a\" 1}", "byte 5"),
        (b"{\"a\":}", "byte 5"),
        (b"{\"a\":1,}", "byte 7"),
        (b"{,\"a\":1}", "byte 1"),
        (b"{\"a\":[1,]}", "byte 8"),
        (b"{\"a\":[1}", "byte 7"),
        (b"{\"a\":{]}", "byte 6"),
        (b"{\"a\":01}", "byte 6"),
        (b"{\"a\":+1}", "byte 5"),
        (b"{\"a\":.5}", "byte 5"),
        (b"{\"a\":1.}", "byte 7"),
        (b"{\"a\":1e}", "byte 7"),
        (b"{\"a\":-}", "byte 6"),
        (b"{\"a\":0x1}", "byte 6"),
        (b"{\"a\":NaN}", "byte 5"),
        (b"{\"a\":Infinity}", "byte 5"),
        (b"{\"a\":truE}", "byte 8"),
        (b"{\"a\":1 /* no */}", "byte 7"),
        (b"{\"a\":\"\\x\"}", "escape"),
        (b"{\"a\":\"\\u12g4\"}", "escape"),
        (b"{\"a\":\"line\nbreak\"}", "control character"),
        (b"{\"a\":\"\0\"}", "control character"),
        (b"\xef\xbb\xbf{}", "invalid JSON"),
        (b"{\"a\":\"\xff\"}", utf8),
        (b"{\"a\":\"\xc3\"}", utf8),
        (b"{\"a\":\"\xc0\xaf\"}", utf8),
        (b"{\"a\":\"\xed\xa0\x80\"}", utf8),
        (b"{\"a\":\"\xf4\x90\x80\x80\"}", utf8),
        (b"{\"\xe4\":1}", utf8),
        (b"\x1f\x8b\x08\0", "invalid JSON"),
    ] {
        let shown = String::from_utf8_lossy(body).into_owned();
        for route in [APIS[0], APIS[3]] {
            let answer = client.send(rig.ask(route.path, body)).await;
            assert_eq!(answer.status.as_u16(), 400, "{shown}");
            answer.is_error(400, "malformed_body", "invalid JSON: ");
            let said = answer.json()["message"].as_str().unwrap().to_owned();
            assert!(said.contains(message), "{shown}: {said}");
        }
    }
    assert!(!client.is_closed());
    drop(client);
    end_untouched(rig).await;
}

#[tokio::test]
async fn a_body_full_of_one_key_is_refused_not_remembered() {
    let rig = Rig::start().await;
    let body = format!("{{{}\"a\":1}}", "\"stream\":true,".repeat(100_000));
    let answer = rig.ask(APIS[0].path, body).send(rig.address()).await;
    answer.is_error(400, "malformed_body", "too many duplicate keys");
    end_untouched(rig).await;
}

#[tokio::test]
async fn an_error_quotes_nothing_that_could_break_its_own_json() {
    let rig = Rig::start().await;
    for byte in 1_u8..=255 {
        if byte == b'{' || byte.is_ascii_whitespace() {
            continue;
        }
        let answer = rig.ask(APIS[0].path, [byte]).send(rig.address()).await;
        answer.is_error(400, "malformed_body", "invalid JSON: ");
    }
    end_untouched(rig).await;
}

#[tokio::test]
async fn a_compressed_request_body_is_said_to_be_no_json() {
    use std::io::Write;
    let rig = Rig::start().await;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(APIS[0].body(false).as_bytes()).unwrap();
    let ask = rig.ask(APIS[0].path, encoder.finish().unwrap());
    let answer = ask.header("content-encoding", "gzip").send(rig.address()).await;
    answer.is_error(400, "malformed_body", "invalid JSON: ");
    end_untouched(rig).await;
}

#[tokio::test]
async fn valid_json_that_no_engine_takes_gets_the_engines_own_words() {
    let rig = Rig::start().await;
    for body in ["{}", r#"{"prompt":7}"#, r#"{"prompt":"x","model":"another"}"#] {
        let alone = Ask::post(APIS[1].path, body).send(rig.prefill.addr()).await;
        let answer = rig.ask(APIS[1].path, body).send(rig.address()).await;
        assert_eq!((answer.status, answer.json()), (alone.status, alone.json()));
    }
    assert!(rig.decode.requests().is_empty());
    rig.end().await;
}
