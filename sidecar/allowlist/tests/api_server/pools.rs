//! What the pool says decides which pods are followed and on which ports they may be dialled.

use super::*;
use double::{ALPHA_POOLS, Verb};

#[tokio::test]
async fn the_alpha_shape_of_a_pool_is_read_too() {
    let server = ApiServer::start();
    server.serve(ALPHA_POOLS);
    let spec = json!({"selector": {"app": "llm", "role": "prefill"}, "targetPortNumber": 8000});
    server.apply(ALPHA_POOLS, &json!({"metadata": {"name": "pool"}, "spec": spec}));
    server.apply(PODS, &pod("a", &["10.0.0.1"]));
    server.apply(PODS, &with(pod("b", &["10.0.0.2"]), "/metadata/labels/role", json!("decode")));
    let pool = PoolRef::new("llm", "pool", "inference.networking.x-k8s.io").unwrap();
    let list = Allowlist::watch(pool, Vec::new(), source(&server)).unwrap();
    allowed(&list, "10.0.0.1:8000").await;
    assert_eq!(verdict(&list, "10.0.0.1:8001"), Verdict::Denied);
    assert_eq!(verdict(&list, "10.0.0.2:8000"), Verdict::Denied, "all labels count");
}

#[tokio::test]
async fn a_pool_that_does_not_exist_yet_is_awaited() {
    let server = ApiServer::start();
    server.apply(PODS, &pod("a", &["10.0.0.1"]));
    server.apply(POOLS, &with(pool("llm", &[8000]), "/metadata/name", json!("another")));
    let list = watch(&server, &[]);
    unknown(&list, "10.0.0.1:8000", &["llm/pool", "does not exist", "--inference-pool"]).await;
    server.apply(POOLS, &pool("llm", &[8000]));
    allowed(&list, "10.0.0.1:8000").await;
    assert_eq!(list.readiness(), Ok(()));
}

#[tokio::test]
async fn a_deleted_pool_denies_every_target_until_there_is_one_again() {
    let (server, list) = settled().await;
    server.delete(POOLS, "pool");
    denied(&list, "10.0.0.1:8000").await;
    assert!(list.readiness().unwrap_err().contains("was deleted"));
    assert_eq!(list.status().endpoints, 0);
    until("its pods are no longer watched", || server.open_watches() == 1).await;
    server.apply(POOLS, &pool("llm", &[9000]));
    allowed(&list, "10.0.0.1:9000").await;
    assert_eq!(verdict(&list, "10.0.0.1:8000"), Verdict::Denied);
    assert_eq!(list.readiness(), Ok(()));
}

#[tokio::test]
async fn new_ports_hold_without_a_new_listing() {
    let (server, list) = settled().await;
    server.apply(POOLS, &pool("llm", &[8000, 8001]));
    allowed(&list, "10.0.0.1:8001").await;
    assert_eq!(verdict(&list, "10.0.0.1:8000"), Verdict::Allowed);
    server.apply(POOLS, &pool("llm", &[8001]));
    denied(&list, "10.0.0.1:8000").await;
    assert_eq!(server.count(PODS, Verb::List), 1);
}

#[tokio::test]
async fn a_new_selector_leaves_the_old_set_in_force_until_its_pods_are_listed() {
    let (server, list) = settled().await;
    server.apply(PODS, &with(pod("b", &["10.0.0.2"]), "/metadata/labels/app", json!("new")));
    server.hold(PODS);
    let witness = Witness::of(&list, "10.0.0.1:8000");
    server.apply(POOLS, &pool("new", &[9000]));
    until("the new pods are asked for", || server.count(PODS, Verb::List) == 2).await;
    assert_eq!(verdict(&list, "10.0.0.2:9000"), Verdict::Denied);
    witness.saw_no_gap();
    server.release(PODS);
    allowed(&list, "10.0.0.2:9000").await;
    assert_eq!(verdict(&list, "10.0.0.1:8000"), Verdict::Denied);
    until("the old pods are no longer watched", || server.open_watches() == 2).await;
}

#[tokio::test]
async fn a_pool_that_names_no_targets_is_refused_with_what_it_lacks() {
    let (server, list) = settled().await;
    for (broken, lack) in [
        (pool("llm", &[]), "spec.targetPorts"),
        (with(pool("llm", &[8000]), "/spec/selector", json!({})), "spec.selector.matchLabels"),
        (with(pool("llm", &[8000]), "/spec", json!(null)), "spec.selector.matchLabels"),
    ] {
        server.apply(POOLS, &broken);
        unknown(&list, "10.0.0.1:8000", &["llm/pool", lack]).await;
        server.apply(POOLS, &pool("llm", &[8000]));
        allowed(&list, "10.0.0.1:8000").await;
    }
}
