//! Which path is served how: health, unclean paths, trailing slashes.

use crate::common::{APIS, Ask, Client, Protocol, Rig, Sidecar, reserve_port};

#[tokio::test]
async fn health_is_the_sidecars_own_and_needs_no_engine() {
    let (nobody, _reserved) = reserve_port();
    let sidecar = Sidecar::start(nobody, &[]);
    let mut client = Client::connect(sidecar.address(), Protocol::Http1).await;
    for method in ["GET", "HEAD"] {
        for path in ["/health", "/health?verbose"] {
            let answer = client.send(Ask::new(method, path, "")).await.ok();
            assert!(answer.body.is_empty());
        }
    }
    // Any other method is the engine's, and there is none.
    let answer = client.send(Ask::post("/health", "")).await;
    answer.is_error(503, "decode_unreachable", "The decode node is not ready.");
    drop(client);
    sidecar.end().await;

    let rig = Rig::start().await;
    Ask::get("/health").send(rig.address()).await.ok();
    assert!(rig.decode.requests().is_empty());
    Ask::get("/healthz").send(rig.address()).await;
    assert_eq!(rig.decode.requests().len(), 1);
    rig.end().await;
}

#[tokio::test]
async fn unclean_paths_are_redirected_with_method_body_and_query_kept() {
    let rig = Rig::start().await;
    for (method, path, clean) in [
        ("GET", "/v1//models?a=b;c", "/v1/models?a=b;c"),
        ("GET", "/a/./b/../c/", "/a/c/"),
        ("POST", "/../v1/embeddings", "/v1/embeddings"),
        ("GET", "//v1/completions", "/v1/completions"),
        ("GET", "/v1/../health", "/health"),
    ] {
        let answer = Ask::new(method, path, "").send(rig.address()).await;
        assert_eq!((answer.status.as_u16(), answer.header("location")), (307, clean), "{path}");
    }
    assert!(rig.decode.requests().is_empty());
    rig.end().await;
}

#[tokio::test]
async fn a_redirect_stays_on_this_host() {
    // `//host/..` at the start of a Location would send the client elsewhere.
    let rig = Rig::start().await;
    for path in ["//evil.example/a", "///evil.example", "/.//evil.example", "/a/..//evil.example"] {
        let answer = Ask::get(path).send(rig.address()).await;
        assert_eq!(answer.status.as_u16(), 307, "{path}");
        assert!(!answer.header("location").starts_with("//"), "{}", answer.header("location"));
    }
    rig.end().await;
}

#[tokio::test]
async fn served_paths_are_served_under_their_clean_form() {
    let rig = Rig::start().await;
    for route in APIS {
        for unclean in [
            format!("{}/", route.path),
            format!("/{}", route.path),
            format!("/v1/..{}", route.path),
            format!("{}/?a=b", route.path),
        ] {
            rig.ask(&unclean, route.body(false)).send(rig.address()).await.ok();
            Ask::post(&unclean, route.body(false)).send(rig.address()).await.ok();
            let query = if unclean.contains('?') { "?a=b" } else { "" };
            let expected = format!("{}{query}", route.path);
            assert_eq!(rig.prefill.requests().pop().unwrap().path, expected, "{unclean}");
            let decode = rig.decode.requests();
            for request in &decode[decode.len() - 2..] {
                assert_eq!(request.path, expected, "{unclean}");
            }
        }
    }
    rig.end().await;
}

#[tokio::test]
async fn paths_below_or_beside_the_served_ones_pass_through() {
    let rig = Rig::start().await;
    for path in [
        "/v1/chat/completions/render",
        "/v1/messages/count_tokens",
        "/v1/responses/resp_1/cancel",
        "/V1/completions",
        "/v1/completions%2F",
        "/v1/embeddings",
    ] {
        let body = r#"{"not":"read"}"#;
        let answer = rig.ask(path, body).send(rig.address()).await;
        assert_eq!(answer.status.as_u16(), 404, "{path}");
        let seen = rig.decode.requests().pop().unwrap();
        assert_eq!((seen.path.as_str(), seen.body.as_deref()), (path, Some(body)));
    }
    assert!(rig.prefill.requests().is_empty());
    rig.end().await;
}
