//! Whom a leg believes: verified unless told otherwise, leg by leg, and a refusal says which leg and why.

use crate::child::engine;
use crate::common::{APIS, Answer, Ask, Sidecar};
use crate::front::{Front, config};
use crate::legs::{World, hands_over};
use crate::pki::{Authority, eventually};
use rustls::version::TLS12;

async fn handoff(sidecar: &Sidecar, target: &str) -> Answer {
    Ask::post(APIS[0].path, APIS[0].body(false)).prefill(target).send(sidecar.address()).await
}

#[tokio::test]
async fn a_prefill_engine_that_cannot_be_verified_is_not_asked() {
    let world = World::start().await;
    let stranger = Authority::new("somebody");
    let sidecar = Sidecar::start(world.decode.addr().port(), &["--enable-tls=prefiller", &world.trust()]);
    for (pair, reason) in [
        (stranger.server(&["localhost"]), "no trusted authority signed it; add its issuer to the CA bundle"),
        (world.authority.server(&["elsewhere"]), "not valid for name \"localhost\""),
        (world.authority.expired("localhost"), "certificate expired"),
    ] {
        let front = Front::showing(&pair, world.prefill.addr()).await;
        let answer = handoff(&sidecar, &front.target()).await;
        answer.is_error(502, "prefill_tls", reason);
        assert!(answer.json()["message"].as_str().unwrap().contains(&front.target()));
    }
    // Speaks plain HTTP, where TLS was asked for.
    let plain = format!("localhost:{}", world.prefill.addr().port());
    handoff(&sidecar, &plain).await.is_error(502, "prefill_tls", "does not speak TLS");

    assert!(world.prefill.requests().iter().all(|seen| !seen.path.starts_with("/v1/")));
    assert!(world.decode.requests().is_empty());
    world.end(sidecar).await;
}

#[tokio::test]
async fn a_decode_engine_that_cannot_be_verified_is_not_asked() {
    let world = World::start().await;
    let stranger = Authority::new("somebody");
    let front = Front::showing(&stranger.server(&["localhost"]), world.decode.addr()).await;
    let sidecar = Sidecar::start(front.port(), &["--enable-tls=decoder", &world.trust()]);
    let to = sidecar.address();
    let reason = "no trusted authority signed it";
    Ask::post(APIS[0].path, APIS[0].body(true)).send(to).await.is_error(502, "decode_tls", reason);
    Ask::get("/v1/models").send(to).await.is_error(502, "decode_tls", reason);
    // Nor is anything sent of a body that flows while it comes.
    let upload = Ask::new("PUT", "/emulator/echo", vec![b'x'; 300_000]).send(to).await;
    upload.is_error(502, "decode_tls", reason);
    handoff(&sidecar, &world.prefill.host_port()).await.is_error(502, "decode_tls", reason);
    assert!(world.decode.requests().is_empty());
    // The engine that would take the release cannot be reached either: the KV waits for its lease.
    world.prefill.restart();
    world.end(sidecar).await;
}

#[tokio::test]
async fn tls_where_none_is_expected_is_an_error_and_no_answer() {
    let world = World::start().await;
    let sidecar = Sidecar::start(world.decode.addr().port(), &[]);
    let answer = handoff(&sidecar, &world.prefill_front.target()).await;
    assert_eq!((answer.status.as_u16(), answer.header("x-kvferry-error")), (502, "prefill_broke"));
    world.end(sidecar).await;
}

#[tokio::test]
async fn verification_is_turned_off_leg_by_leg() {
    let world = World::start().await;
    // No authority is known here but the system's, which know none of these.
    for (skipped, prefill_is_met, code) in
        [("prefiller", true, "decode_tls"), ("decoder", false, "prefill_tls")]
    {
        let skip = format!("--tls-insecure-skip-verify={skipped}");
        let sidecar = Sidecar::start(world.decode_front.port(), &["--enable-tls=prefiller,decoder", &skip]);
        let before = world.prefill_front.met().len();
        let answer = handoff(&sidecar, &world.prefill_front.target()).await;
        assert_eq!((answer.status.as_u16(), answer.header("x-kvferry-error")), (502, code));
        assert_eq!(world.prefill_front.met().len() > before, prefill_is_met, "{skipped}");
        let alone = Ask::post(APIS[0].path, APIS[0].body(false)).send(sidecar.address()).await;
        assert_eq!(alone.status.is_success(), skipped == "decoder");
        world.prefill.restart();
        sidecar.end().await;
    }
    let both = ["--enable-tls=prefiller,decoder", "--tls-insecure-skip-verify=prefiller,decoder"];
    let sidecar = Sidecar::start(world.decode_front.port(), &both);
    hands_over(&sidecar, &world.prefill_front.target()).await;
    world.end(sidecar).await;
}

#[tokio::test]
async fn without_verification_nothing_of_a_certificate_matters() {
    let world = World::start().await;
    let flags = ["--enable-tls=prefiller", "--tls-insecure-skip-verify=prefiller"];
    let sidecar = Sidecar::start(world.decode.addr().port(), &flags);
    for pair in [
        Authority::new("somebody").server(&["localhost"]),
        world.authority.server(&["elsewhere"]),
        world.authority.expired("localhost"),
    ] {
        let front = Front::showing(&pair, world.prefill.addr()).await;
        handoff(&sidecar, &front.target()).await.ok();
    }
    world.end(sidecar).await;
}

#[tokio::test]
async fn legs_speak_no_version_below_the_configured_one() {
    let world = World::start().await;
    let old = config(&world.authority.server(&["localhost"]), None, &[&TLS12]);
    let front = Front::with(old, world.prefill.addr()).await;
    let flags = ["--enable-tls=prefiller", &world.trust()];
    let sidecar = Sidecar::start(world.decode.addr().port(), &flags);
    handoff(&sidecar, &front.target()).await.ok();
    sidecar.end().await;
    let strict = [&flags[..], &["--tls-min-version=VersionTLS13"]].concat();
    let sidecar = Sidecar::start(world.decode.addr().port(), &strict);
    let answer = handoff(&sidecar, &front.target()).await;
    answer.is_error(502, "prefill_tls", "no version or cipher suite in common");
    world.end(sidecar).await;
}

#[tokio::test]
async fn a_new_bundle_is_read_while_the_sidecar_runs() {
    let world = World::start().await;
    let sidecar = Sidecar::start(world.decode.addr().port(), &["--enable-tls=prefiller", &world.trust()]);
    let other = Authority::new("next year's");
    let front = Front::showing(&other.server(&["localhost"]), world.prefill.addr()).await;
    handoff(&sidecar, &front.target()).await.is_error(502, "prefill_tls", "no trusted authority signed it");
    world.folder.write("ca.crt", &(world.authority.pem() + &other.pem()));
    eventually(async || handoff(&sidecar, &front.target()).await.status.is_success()).await;
    handoff(&sidecar, &world.prefill_front.target()).await.ok();
    world.end(sidecar).await;
}

#[tokio::test]
async fn a_candidate_that_cannot_be_verified_is_passed_over_where_others_may_serve() {
    let world = World::start().await;
    let front =
        Front::showing(&Authority::new("somebody").server(&["localhost"]), world.prefill.addr()).await;
    let flags = ["--enable-tls=prefiller", &world.trust(), "--prefill-failure-policy=retry-other"];
    let sidecar = Sidecar::start(world.decode.addr().port(), &flags);
    let candidates = format!("{},{}", front.target(), world.prefill_front.target());
    handoff(&sidecar, &candidates).await.ok();
    assert!(front.met().is_empty());
    world.end(sidecar).await;
}

#[tokio::test]
async fn what_the_emulators_answer_is_the_same_with_tls_and_without() {
    let world = World::start().await;
    let flags = ["--enable-tls=prefiller,decoder", &world.trust()];
    let secure = Sidecar::start(world.decode_front.port(), &flags);
    let other = engine().await;
    let plain = Sidecar::start(other.addr().port(), &[]);
    for route in APIS {
        for stream in [false, true] {
            let ask = || Ask::post(route.path, route.body(stream)).header("x-request-id", "same");
            let names = ["cached_tokens", "cache_read_input_tokens", "input_tokens"];
            let one = ask().prefill(&world.prefill_front.target()).send(secure.address()).await.ok();
            let two = ask().prefill(&world.prefill.host_port()).send(plain.address()).await.ok();
            assert_eq!(crate::common::content(&one, &names), crate::common::content(&two, &names));
        }
    }
    crate::common::eventually("the other engine is empty", || other.state().idle()).await;
    plain.end().await;
    world.end(secure).await;
}
