//! `PUT /log-level`: what is logged changes at once, without a restart.

use crate::child::request_lines;
use crate::common::{APIS, Ask};
use crate::pod::Pod;
use serde_json::Value;

async fn set(pod: &Pod, level: &str) {
    let answer = Ask::new("PUT", "/log-level", level).send(pod.admin).await.ok();
    assert_eq!(answer.json()["level"], level);
    assert_eq!(pod.get("/log-level").await.ok().json()["level"], level);
}

async fn request(pod: &Pod, id: &str) {
    let ask = pod.ask(APIS[0].path, APIS[0].body(false)).header("x-request-id", id);
    ask.send(pod.address()).await.ok();
    // Its line is written when everything about it is over.
    pod.idle().await;
}

#[tokio::test]
async fn request_lines_come_and_go_with_the_level() {
    let pod = Pod::start(&["--log-level=error"]).await;
    assert_eq!(pod.get("/log-level").await.ok().json()["level"], "error");
    request(&pod, "unseen").await;
    set(&pod, "info").await;
    request(&pod, "seen").await;
    set(&pod, "off").await;
    request(&pod, "unseen again").await;
    set(&pod, "debug").await;
    request(&pod, "seen again").await;
    let log = pod.end().await;
    let ids: Vec<Value> = request_lines(&log).iter().map(|line| line["request_id"].clone()).collect();
    assert_eq!(ids, ["seen", "seen again"]);
    // Whoever reads the log is told, once for each change that the log still shows.
    let told = |line: &&Value| line["fields"]["message"].as_str().unwrap().contains("log level changed");
    assert_eq!(log.iter().filter(told).count(), 2, "to info and to debug");
}

#[tokio::test]
async fn the_level_may_stand_in_the_query_and_what_is_no_level_changes_nothing() {
    let pod = Pod::start(&[]).await;
    Ask::new("PUT", "/log-level?level=warn", "").send(pod.admin).await.ok();
    assert_eq!(pod.get("/log-level").await.json()["level"], "warn");
    for level in ["loud", "", "info,warn", "9"] {
        let answer = Ask::new("PUT", "/log-level", level).send(pod.admin).await;
        assert_eq!(answer.status, 400, "{level:?}");
        assert!(answer.json()["error"].as_str().unwrap().contains("off, error, warn, info, debug or trace"));
    }
    assert_eq!(pod.get("/log-level").await.json()["level"], "warn");
    set(&pod, "info").await;
    pod.end().await;
}
