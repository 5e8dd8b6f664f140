//! An API server that ends watches, forgets, forbids, talks nonsense or is not there: what was complete stays in
//! force, and what never was says why.

use super::*;
use double::{Ending, Verb};

#[tokio::test]
async fn watches_that_end_are_taken_up_where_they_ended_without_a_gap() {
    let (server, list) = settled().await;
    let witness = Witness::of(&list, "10.0.0.1:8000");
    for (n, ending) in [(2, Ending::Clean), (3, Ending::Cut), (4, Ending::Clean), (5, Ending::Cut)] {
        server.end_watches(ending);
        // While no watch is open.
        server.apply(PODS, &pod("b", &[&format!("10.0.0.{n}")]));
        allowed(&list, &format!("10.0.0.{n}:8000")).await;
        until("watches are open again", || server.open_watches() == 2).await;
        server.bookmark(PODS);
        server.bookmark(POOLS);
    }
    witness.saw_no_gap();
    assert_eq!(server.count(PODS, Verb::List), 1, "nothing was listed again");
    assert_eq!(server.count(POOLS, Verb::List), 1);
    until("no trouble is left", || list.status().trouble.is_none()).await;
}

#[tokio::test]
async fn a_forgotten_version_is_answered_by_a_new_listing_while_the_old_set_stays() {
    let (server, list) = settled().await;
    server.apply(PODS, &pod("b", &["10.0.0.2"]));
    allowed(&list, "10.0.0.2:8000").await;
    let witness = Witness::of(&list, "10.0.0.1:8000");
    server.hold(PODS);
    // Nobody is told of this deletion: only the listing shows it.
    server.end_watches(Ending::Clean);
    server.delete(PODS, "b");
    server.forget();
    until("pods are listed again", || server.count(PODS, Verb::List) == 2).await;
    assert_eq!(verdict(&list, "10.0.0.2:8000"), Verdict::Allowed, "in force until the listing is complete");
    server.release(PODS);
    denied(&list, "10.0.0.2:8000").await;
    witness.saw_no_gap();
    assert_eq!(list.status().trouble, None, "that is ordinary");
}

#[tokio::test]
async fn a_watch_that_says_expired_itself_is_listed_again() {
    let (server, list) = settled().await;
    let witness = Witness::of(&list, "10.0.0.1:8000");
    server.forget();
    server.apply(PODS, &pod("b", &["10.0.0.2"]));
    allowed(&list, "10.0.0.2:8000").await;
    witness.saw_no_gap();
}

#[tokio::test]
async fn a_pool_deleted_while_nobody_watched_empties_the_set() {
    let (server, list) = settled().await;
    server.end_watches(Ending::Clean);
    server.delete(POOLS, "pool");
    server.forget();
    denied(&list, "10.0.0.1:8000").await;
    assert!(list.readiness().unwrap_err().contains("was deleted"));
}

#[tokio::test]
async fn a_listing_whose_next_page_expired_starts_over() {
    let server = ApiServer::start();
    server.page(1);
    server.lose_pages(2);
    server.apply(POOLS, &pool("llm", &[8000]));
    for n in 1..=3 {
        server.apply(PODS, &pod(&format!("p{n}"), &[&format!("10.0.0.{n}")]));
    }
    let list = watch(&server, &[]);
    for n in 1..=3 {
        allowed(&list, &format!("10.0.0.{n}:8000")).await;
    }
    assert_eq!(server.count(PODS, Verb::List), 2 + 2 + 3, "two that broke off after their first page");
    assert_eq!(list.status().trouble, None, "that is ordinary");
}

#[tokio::test]
async fn a_missing_role_is_named_and_found_when_it_is_granted() {
    for (collection, plural) in [(POOLS, "inferencepools"), (PODS, "pods")] {
        let server = ApiServer::start();
        server.apply(POOLS, &pool("llm", &[8000]));
        server.apply(PODS, &pod("a", &["10.0.0.1"]));
        server.refuse(collection, Verb::List, 403);
        let list = watch(&server, &["192.0.2.1:80"]);
        let words = ["forbids", plural, "namespace llm", "Role", "list", "watch", "refused by the double"];
        unknown(&list, "10.0.0.1:8000", &words).await;
        assert_eq!(verdict(&list, "192.0.2.1:80"), Verdict::Allowed, "a rule needs no list");
        assert_eq!(list.status().since_contact, None);
        assert!(list.readiness().unwrap_err().contains("no complete answer"), "{:?}", list.readiness());
        server.grant(collection, Verb::List);
        allowed(&list, "10.0.0.1:8000").await;
        assert_eq!(list.readiness(), Ok(()));
        until("no trouble is left", || list.status().trouble.is_none()).await;
        assert!(list.status().since_contact.is_some());
    }
}

#[tokio::test]
async fn without_leave_to_watch_the_list_is_polled_and_the_missing_verb_named() {
    let server = ApiServer::start();
    server.apply(POOLS, &pool("llm", &[8000]));
    server.apply(PODS, &pod("a", &["10.0.0.1"]));
    server.refuse(PODS, Verb::Watch, 403);
    let list = watch(&server, &[]);
    allowed(&list, "10.0.0.1:8000").await;
    trouble(&list, &["forbids to watch pods", "Role"]).await;
    server.apply(PODS, &pod("b", &["10.0.0.2"]));
    allowed(&list, "10.0.0.2:8000").await;
    server.grant(PODS, Verb::Watch);
    until("the trouble is over", || list.status().trouble.is_none()).await;
}

#[tokio::test]
async fn a_role_taken_away_leaves_the_last_known_set_in_force() {
    let (server, list) = settled().await;
    let witness = Witness::of(&list, "10.0.0.1:8000");
    for collection in [PODS, POOLS] {
        server.refuse(collection, Verb::List, 403);
        server.refuse(collection, Verb::Watch, 403);
    }
    server.end_watches(Ending::Clean);
    trouble(&list, &["forbids", "Role"]).await;
    assert_eq!(list.readiness(), Ok(()));
    witness.saw_no_gap();
}

#[tokio::test]
async fn an_unknown_kind_of_object_asks_for_its_definition() {
    let server = ApiServer::start();
    server.apply(PODS, &pod("a", &["10.0.0.1"]));
    server.refuse(POOLS, Verb::List, 404);
    let list = watch(&server, &[]);
    unknown(&list, "10.0.0.1:8000", &["inference.networking.k8s.io/v1", "CRD", "--pool-group"]).await;
    server.apply(POOLS, &pool("llm", &[8000]));
    server.grant(POOLS, Verb::List);
    allowed(&list, "10.0.0.1:8000").await;
}

#[tokio::test]
async fn other_refusals_are_told_with_what_they_mean() {
    for (code, words) in [(401, "service account's token"), (429, "429"), (500, "500")] {
        let (server, list) = (ApiServer::start(), "10.0.0.1:8000");
        server.refuse(POOLS, Verb::List, code);
        server.apply(POOLS, &pool("llm", &[8000]));
        server.apply(PODS, &pod("a", &["10.0.0.1"]));
        let allowlist = watch(&server, &[]);
        unknown(&allowlist, list, &[words]).await;
        server.grant(POOLS, Verb::List);
        allowed(&allowlist, list).await;
    }
}

#[tokio::test]
async fn a_start_does_not_wait_for_the_api_server() {
    let mut server = ApiServer::stopped(None);
    server.apply(POOLS, &pool("llm", &[8000]));
    server.apply(PODS, &pod("a", &["10.0.0.1"]));
    let list = watch(&server, &[]);
    assert!(matches!(verdict(&list, "10.0.0.1:8000"), Verdict::Unknown(_)), "from the first moment");
    unknown(&list, "10.0.0.1:8000", &["cannot reach", "refused"]).await;
    assert_eq!(list.status().since_contact, None);
    server.up();
    allowed(&list, "10.0.0.1:8000").await;
    assert_eq!(list.readiness(), Ok(()));
}

#[tokio::test]
async fn an_outage_leaves_the_last_known_set_in_force_and_shows_its_age() {
    let (mut server, list) = settled().await;
    let witness = Witness::of(&list, "10.0.0.1:8000");
    server.down().await;
    trouble(&list, &["cannot reach"]).await;
    let age = list.status().since_contact.unwrap();
    until("the list grows older", || list.status().since_contact.unwrap() > age).await;
    assert_eq!(list.readiness(), Ok(()));
    server.apply(PODS, &pod("b", &["10.0.0.2"]));
    server.up();
    allowed(&list, "10.0.0.2:8000").await;
    until("the trouble is over", || list.status().trouble.is_none()).await;
    witness.saw_no_gap();
}

#[tokio::test]
async fn garbage_on_a_watch_leads_to_a_new_listing_and_no_gap() {
    let (server, list) = settled().await;
    let witness = Witness::of(&list, "10.0.0.1:8000");
    for (n, line) in [
        "<html>bad gateway</html>",
        r#"{"type":"DELETED","object":{"metadata":{"name":"a"}}}"#,
        r#"{"type":"MODIFIED","object":{"metadata":{"name":7,"resourceVersion":"9"}}}"#,
        r#"{"type":"ERROR","object":{"kind":"Status","code":500,"message":"etcd leader changed"}}"#,
        r#"{"type":"SURPRISE","object":{"metadata":{"name":"a","resourceVersion":"9"}}}"#,
    ]
    .into_iter()
    .enumerate()
    {
        server.inject(PODS, line);
        server.apply(PODS, &pod("b", &[&format!("10.0.1.{n}")]));
        allowed(&list, &format!("10.0.1.{n}:8000")).await;
        until("watches are open again", || server.open_watches() == 2).await;
    }
    witness.saw_no_gap();
}

#[tokio::test]
async fn a_listing_that_does_not_parse_is_no_empty_one() {
    let (server, list) = settled().await;
    let witness = Witness::of(&list, "10.0.0.1:8000");
    server.false_list(Some("<html>captive portal</html>"));
    server.forget();
    trouble(&list, &["does not parse"]).await;
    let fresh = watch(&server, &[]);
    unknown(&fresh, "10.0.0.1:8000", &["does not parse"]).await;
    server.false_list(None);
    allowed(&fresh, "10.0.0.1:8000").await;
    until("the trouble is over", || list.status().trouble.is_none()).await;
    witness.saw_no_gap();
}

#[tokio::test]
async fn the_last_handle_ends_the_watches() {
    let (server, list) = settled().await;
    let clone = list.clone();
    drop(list);
    server.apply(PODS, &pod("b", &["10.0.0.2"]));
    allowed(&clone, "10.0.0.2:8000").await;
    drop(clone);
    until("no watch is open", || server.open_watches() == 0).await;
}
