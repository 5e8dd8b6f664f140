//! The legs' bodies, byte by byte: everything but the edited members is as the client wrote it.

use crate::common::{APIS, Ask, Rig, Scripted, Sidecar, json_answer};

/// What asks prefill to keep its KV.
const KEEP: &str = r#"{"do_remote_decode":true,"do_remote_prefill":false,"remote_engine_id":null,"remote_block_ids":null,"remote_host":null,"remote_port":null}"#;

/// KV parameters as no engine writes them, for whoever would parse them and write them back.
const ODD_PARAMS: &str = r#"{ "do_remote_prefill" : true,"big":123456789012345678901234567890,"e":1E+2,
 "remote_block_ids":[[9007199254740993 ,2]],"\u0061":"\/\u00e9<&>","a":1,"a":2, "nothing":null}"#;

/// Sends `body` through two scripted engines; returns what each was sent.
async fn legs(path: &str, body: &str) -> (String, String) {
    let odd = format!(r#" {{"usage":null, "kv_transfer_params" : {ODD_PARAMS} ,"more":[1]}} "#);
    let prefill = Scripted::answering(json_answer(200, &odd)).await;
    let decode = Scripted::answering(json_answer(200, "{}")).await;
    let sidecar = Sidecar::start(decode.port(), &[]);
    let ask = Ask::post(path, body).prefill(&prefill.host_port());
    ask.send(sidecar.address()).await.ok();
    let (prefill, decode) = (prefill.requests(), decode.requests());
    assert_eq!((prefill.len(), decode.len()), (1, 1));
    for leg in [&prefill[0], &decode[0]] {
        assert!(leg.head.starts_with(&format!("POST {path} HTTP/1.1\r\n")), "{}", leg.head);
        assert_eq!(leg.header("content-type"), Some("application/json"));
        assert_eq!(leg.header("content-length"), Some(leg.body.len().to_string().as_str()));
        assert_eq!(leg.header("transfer-encoding"), None);
    }
    sidecar.end().await;
    (prefill[0].text(), decode[0].text())
}

#[tokio::test]
async fn the_prefill_leg_is_capped_to_one_token_as_its_api_has_it() {
    let chat = "/v1/chat/completions";
    let text = "/v1/completions";
    let messages = "/v1/messages";
    let responses = "/v1/responses";
    let generate = "/inference/v1/generate";
    // `KV` and `{` stand for the members that every prefill leg gets.
    for (path, body, expected) in [
        (chat, r#"{"m":1}"#, r#"{KV,"stream":false,"max_tokens":1,"max_completion_tokens":1,"m":1}"#),
        (chat, "{}", r#"{KV,"stream":false,"max_tokens":1,"max_completion_tokens":1}"#),
        (
            chat,
            r#"{"max_tokens": 900 ,"max_completion_tokens":null,"stream":true}"#,
            r#"{KV,"max_tokens": 1 ,"max_completion_tokens":1,"stream":false}"#,
        ),
        (
            chat,
            r#"{"min_tokens":5, "stream" : true, "stream_options":{"include_usage":true},"m":1,"n": 4}"#,
            r#"{KV,"max_tokens":1,"max_completion_tokens":1,"stream" : false,"m":1,"n": 1}"#,
        ),
        (text, r#"{"prompt":"p"}"#, r#"{KV,"stream":false,"max_tokens":1,"prompt":"p"}"#),
        (
            text,
            r#"{"prompt":"p","max_tokens":7,"max_completion_tokens":8,"n":2,"min_tokens":7}"#,
            r#"{KV,"stream":false,"prompt":"p","max_tokens":1,"max_completion_tokens":8,"n":1}"#,
        ),
        (
            messages,
            r#"{"max_tokens":100,"n":3,"stream":true}"#,
            r#"{KV,"max_tokens":1,"n":3,"stream":false}"#,
        ),
        (
            responses,
            r#"{"input":"i"}"#,
            r#"{KV,"stream":false,"max_output_tokens":1,"store":false,"input":"i"}"#,
        ),
        (
            responses,
            r#"{"input":"i","max_output_tokens":50,"store":true,"max_tokens":3,"stream":false}"#,
            r#"{KV,"input":"i","max_output_tokens":1,"store":false,"max_tokens":3,"stream":false}"#,
        ),
        (
            generate,
            r#"{"token_ids":[1]}"#,
            r#"{KV,"stream":false,"sampling_params":{"max_tokens":1},"token_ids":[1]}"#,
        ),
        (
            generate,
            r#"{"token_ids":[1],"sampling_params":null}"#,
            r#"{KV,"stream":false,"token_ids":[1],"sampling_params":{"max_tokens":1}}"#,
        ),
        (
            generate,
            r#"{"token_ids":[1],"sampling_params": {"min_tokens":2, "seed":18446744073709551616,"max_tokens":64 } }"#,
            r#"{KV,"stream":false,"token_ids":[1],"sampling_params": {"seed":18446744073709551616,"max_tokens":1 } }"#,
        ),
        (
            generate,
            r#"{"sampling_params":{"temperature":0},"min_tokens":1,"token_ids":[1]}"#,
            r#"{KV,"stream":false,"sampling_params":{"max_tokens":1,"temperature":0},"token_ids":[1]}"#,
        ),
    ] {
        let (prefill, decode) = legs(path, body).await;
        let keep = format!("{{\"kv_transfer_params\":{KEEP}");
        assert_eq!(prefill, expected.replacen("{KV", &keep, 1), "{path} {body}");
        let comma = if body == "{}" { "" } else { "," };
        let params = format!("{{\"kv_transfer_params\":{ODD_PARAMS}{comma}");
        assert_eq!(decode, body.replacen('{', &params, 1), "{path} {body}");
    }
}

#[tokio::test]
async fn what_is_not_edited_stays_byte_for_byte() {
    let body = concat!(
        " \r\n\t{ \"z\" : 1.0e+0 ,\"z\":\"twice\",\n",
        "\"tools\":[{\"function\":{\"parameters\":{\"zeta\":1,\"alpha\":{\"b\":[ ],\"a\":{ }}}}}],",
        "\"seed\":123456789012345678901234567890, \"f\":-0.10,\"half\":5e-1,",
        "\"text\":\"\\u00e9\\/ \\ud83d\\ude00 <&> \u{2028} \u{1f422} \\\"quoted\\\" {\\\"stream\\\":true}\",",
        "\"nested\":{\"stream\":true,\"max_tokens\":99,\"kv_transfer_params\":{}},\"str\\u0065am\":true,",
        "\"stream\" :true , \"max_tokens\":5,\"max_tokens\" : 6,\"\":null}\n\n"
    );
    let (prefill, decode) = legs("/v1/completions", body).await;
    // Every spelling and every copy of an edited member changes, since engines differ in which one they obey.
    let expected = body
        .replacen('{', &format!("{{\"kv_transfer_params\":{KEEP},"), 1)
        .replace("am\":true,\"stream\" :true", "am\":false,\"stream\" :false")
        .replace("\"max_tokens\":5,\"max_tokens\" : 6", "\"max_tokens\":1,\"max_tokens\" : 1");
    assert_eq!(prefill, expected);
    assert_eq!(decode, body.replacen('{', &format!("{{\"kv_transfer_params\":{ODD_PARAMS},"), 1));
}

#[tokio::test]
async fn kv_parameters_of_the_client_are_replaced_where_they_stand() {
    // Else a client could make the engines read or free another request's KV.
    let body =
        r#"{"a":1,"kv_transfer_params":{"do_remote_prefill":true} ,"b":2,"kv_\u0074ransfer_params":7}"#;
    let (prefill, decode) = legs("/v1/messages", body).await;
    let with = |params: &str, more: &str| {
        format!(
            "{{{more}\"a\":1,\"kv_transfer_params\":{params} ,\"b\":2,\"kv_\\u0074ransfer_params\":{params}}}"
        )
    };
    assert_eq!(prefill, with(KEEP, r#""stream":false,"max_tokens":1,"#));
    assert_eq!(decode, with(ODD_PARAMS, ""));
}

#[tokio::test]
async fn a_body_of_five_megabytes_reaches_both_engines_unchanged() {
    let filler = "\"padding\",".repeat(500_000);
    let body = format!("{{\"list\":[{filler}0],\"max_tokens\":3}}");
    assert!(body.len() > 5_000_000);
    let (prefill, decode) = legs("/v1/completions", &body).await;
    let head = format!("{{\"kv_transfer_params\":{KEEP},\"stream\":false,");
    // Not assert_eq: nobody wants to read ten megabytes.
    assert!(prefill == body.replacen('{', &head, 1).replace("\"max_tokens\":3", "\"max_tokens\":1"));
    assert!(decode == body.replacen('{', &format!("{{\"kv_transfer_params\":{ODD_PARAMS},"), 1));
}

#[tokio::test]
async fn nesting_deeper_than_any_parser_allows_is_the_engines_to_judge() {
    let deep = format!("{{\"a\":{}{}}}", "[".repeat(200_000), "]".repeat(200_000));
    let (prefill, decode) = legs("/v1/completions", &deep).await;
    assert!(prefill.ends_with(&deep[1..]));
    assert!(decode.ends_with(&deep[1..]));
}

#[tokio::test]
async fn what_prefill_returned_is_null_or_any_json_value_and_goes_on_as_it_is() {
    for (answer, params) in [
        (r#"{"kv_transfer_params":[1, 2]}"#, "[1, 2]"),
        (r#"{"kv_transfer_params":"text"}"#, "\"text\""),
        (r#"{"kv_transfer_params":null}"#, "null"),
        (r#"{"kv_transfer_params":{}}"#, "{}"),
        ("{}", "null"),
    ] {
        let prefill = Scripted::answering(json_answer(200, answer)).await;
        let decode = Scripted::answering(json_answer(200, "{}")).await;
        let sidecar = Sidecar::start(decode.port(), &[]);
        let ask = Ask::post("/v1/completions", r#"{"p":1}"#).prefill(&prefill.host_port());
        ask.send(sidecar.address()).await.ok();
        let expected = format!(r#"{{"kv_transfer_params":{params},"p":1}}"#);
        assert_eq!(decode.requests()[0].text(), expected, "{answer}");
        sidecar.end().await;
    }
}

#[tokio::test]
async fn a_real_handle_names_the_engine_that_keeps_the_kv() {
    let rig = Rig::start().await;
    rig.ask(APIS[1].path, APIS[1].body(true)).send(rig.address()).await.ok();
    let leg = rig.decode.requests().pop().unwrap().body.unwrap();
    let leg: serde_json::Value = serde_json::from_str(&leg).unwrap();
    let params = &leg["kv_transfer_params"];
    assert_eq!(params["remote_engine_id"], rig.prefill.state().engine_id);
    assert_eq!(params["remote_port"], rig.prefill.kv_port());
    assert_eq!(params["do_remote_prefill"], true);
    rig.end().await;
}

#[tokio::test]
async fn a_body_with_several_prompts_goes_to_the_decode_engine_whole() {
    for (prompt, handed_over) in
        [("[[1,2],[3]]", false), (r#"["a", "b"]"#, false), ("[[1,2]]", true), ("[1,2]", true)]
    {
        let prefill = Scripted::answering(json_answer(200, "{}")).await;
        let decode = Scripted::answering(json_answer(200, "{}")).await;
        let sidecar = Sidecar::start(decode.port(), &[]);
        let body = format!(r#"{{ "model":"m", "prompt" : {prompt} ,"max_tokens":3}}"#);
        let ask = Ask::post("/v1/completions", body.clone()).prefill(&prefill.host_port());
        ask.send(sidecar.address()).await.ok();
        assert_eq!(!prefill.requests().is_empty(), handed_over, "{prompt}");
        let [leg] = &decode.requests()[..] else { panic!("one decode leg") };
        assert_eq!(leg.text() == body, !handed_over, "{prompt}");
        assert_eq!(leg.header("x-prefiller-host-port"), None);
        sidecar.end().await;
    }
}
