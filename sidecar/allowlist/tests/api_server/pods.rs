//! Which pods are targets, and how a change of a pod becomes one of the list.

use super::*;
use double::{Ending, Verb};

#[tokio::test]
async fn ready_pods_of_the_pool_are_allowed_on_its_ports_and_nothing_else_is() {
    let server = ApiServer::start();
    server.apply(POOLS, &pool("llm", &[8000, 8001]));
    server.apply(PODS, &pod("a", &["10.0.0.1", "2001:db8::1"]));
    server.apply(PODS, &unready(pod("b", &["10.0.0.2"])));
    let deleted = json!("2026-01-01T00:00:00Z");
    server.apply(PODS, &with(pod("c", &["10.0.0.3"]), "/metadata/deletionTimestamp", deleted));
    server.apply(PODS, &with(pod("d", &["10.0.0.4"]), "/metadata/labels/app", json!("other")));
    server.apply(PODS, &pod("e", &[]));
    let list = watch(&server, &["192.0.2.0/24:80"]);
    for target in
        ["10.0.0.1:8000", "10.0.0.1:8001", "[2001:db8:0:0::1]:8000", "a:8000", "A:8001", "192.0.2.9:80"]
    {
        allowed(&list, target).await;
    }
    for target in [
        "10.0.0.1:22",
        "[2001:db8::1]:80",
        "a:6443",
        "10.0.0.2:8000",
        "10.0.0.3:8000",
        "10.0.0.4:8000",
        "b:8000",
        "e:8000",
        "192.0.2.9:8000",
        "169.254.169.254:80",
    ] {
        assert_eq!(verdict(&list, target), Verdict::Denied, "{target}");
    }
    assert_eq!(list.readiness(), Ok(()));
    assert!(!list.is_open());
}

#[tokio::test]
async fn pods_come_move_and_go() {
    let (server, list) = settled().await;
    server.apply(PODS, &pod("b", &["2001:db8::2"]));
    allowed(&list, "[2001:db8::2]:8000").await;
    server.apply(PODS, &pod("b", &["10.0.0.2"]));
    allowed(&list, "10.0.0.2:8000").await;
    assert_eq!(verdict(&list, "[2001:db8::2]:8000"), Verdict::Denied);
    server.delete(PODS, "b");
    denied(&list, "10.0.0.2:8000").await;
    assert_eq!(verdict(&list, "10.0.0.1:8000"), Verdict::Allowed);
}

#[tokio::test]
async fn a_pod_is_a_target_only_while_it_is_ready_and_has_the_pools_labels() {
    let (server, list) = settled().await;
    let a = pod("a", &["10.0.0.1"]);
    for gone in [
        unready(a.clone()),
        with(a.clone(), "/metadata/deletionTimestamp", json!("2026-01-01T00:00:00Z")),
        with(a.clone(), "/metadata/labels/app", json!("drained")),
    ] {
        server.apply(PODS, &gone);
        denied(&list, "10.0.0.1:8000").await;
        assert_eq!(verdict(&list, "a:8000"), Verdict::Denied);
        server.apply(PODS, &a);
        allowed(&list, "10.0.0.1:8000").await;
    }
}

#[tokio::test]
async fn a_listing_of_many_pages_takes_force_as_one() {
    let server = ApiServer::start();
    server.page(1);
    server.apply(POOLS, &pool("llm", &[8000]));
    for n in 1..=5 {
        server.apply(PODS, &pod(&format!("p{n}"), &[&format!("10.0.0.{n}")]));
    }
    let list = watch(&server, &[]);
    allowed(&list, "10.0.0.1:8000").await;
    for n in 1..=5 {
        assert_eq!(verdict(&list, &format!("10.0.0.{n}:8000")), Verdict::Allowed, "as soon as one is");
    }
    assert_eq!(server.count(PODS, Verb::List), 5);
}

#[tokio::test]
async fn who_subscribes_learns_every_ready_address_with_every_port() {
    let (server, list) = settled().await;
    let mut endpoints = list.subscribe();
    let texts = |endpoints: &[_]| -> Vec<String> { endpoints.iter().map(ToString::to_string).collect() };
    assert_eq!(texts(&endpoints.borrow_and_update()), ["10.0.0.1:8000"]);
    server.apply(PODS, &pod("b", &["10.0.0.2", "2001:db8::2"]));
    endpoints.changed().await.unwrap();
    let now = texts(&endpoints.borrow_and_update());
    assert_eq!(now, ["10.0.0.1:8000", "10.0.0.2:8000", "[2001:db8::2]:8000"]);
    assert_eq!(list.status().endpoints, 3);
    server.apply(POOLS, &pool("llm", &[8000, 8001]));
    endpoints.changed().await.unwrap();
    assert_eq!(endpoints.borrow_and_update().len(), 6);
    drop(list);
    until("the channel ends with the list", || endpoints.has_changed().is_err()).await;
}

#[tokio::test]
async fn what_changes_nothing_for_us_wakes_nobody() {
    let (server, list) = settled().await;
    let endpoints = list.subscribe();
    server.apply(PODS, &with(pod("a", &["10.0.0.1"]), "/metadata/labels/extra", json!("1")));
    server.apply(PODS, &unready(pod("z", &["10.0.0.9"])));
    until("all of that was read", || {
        server.end_watches(Ending::Clean);
        server.is_read(PODS)
    })
    .await;
    assert!(!endpoints.has_changed().unwrap());
    assert_eq!(verdict(&list, "10.0.0.1:8000"), Verdict::Allowed);
}
