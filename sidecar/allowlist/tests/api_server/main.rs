//! The allowlist against an API server that lists, watches and fails like a real one.
#![expect(clippy::unwrap_used, reason = "a test may stop at what cannot be")]

mod client;
mod double;
mod outages;
mod pods;
mod pools;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use double::{ApiServer, PODS, POOLS};
use kvferry_allowlist::{Allowlist, ClientSource, PoolRef, Rule, Verdict};
use serde_json::{Value, json};

/// How long a condition may take before a test gives up: far longer than on the slowest shared machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// How often a condition is looked at.
const GLANCE: Duration = Duration::from_millis(5);

/// The stable pool `llm/pool` for pods with this label, on these ports.
fn pool(app: &str, ports: &[u16]) -> Value {
    let ports: Vec<_> = ports.iter().map(|port| json!({"number": port})).collect();
    json!({
        "metadata": {"name": "pool", "namespace": "llm", "uid": "1"},
        "spec": {"selector": {"matchLabels": {"app": app}}, "targetPorts": ports},
    })
}

/// A ready pod of the application `llm` with these addresses.
fn pod(name: &str, addresses: &[&str]) -> Value {
    let ips: Vec<_> = addresses.iter().map(|ip| json!({"ip": ip})).collect();
    json!({
        "metadata": {"name": name, "namespace": "llm", "labels": {"app": "llm", "role": "prefill"}},
        "spec": {"containers": [{"name": "engine", "env": [{"name": "A", "value": "B"}]}]},
        "status": {
            "phase": "Running",
            "podIP": addresses.first(),
            "podIPs": ips,
            "conditions": [{"type": "Initialized", "status": "True"}, {"type": "Ready", "status": "True"}],
        },
    })
}

/// The same pod with another value somewhere in it.
fn with(mut pod: Value, pointer: &str, value: Value) -> Value {
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    let parent = pod.pointer_mut(parent).unwrap();
    match key.parse::<usize>() {
        Ok(index) => parent[index] = value,
        Err(_) => parent[key] = value,
    }
    pod
}

/// The pod, not ready.
fn unready(pod: Value) -> Value {
    with(pod, "/status/conditions/1/status", json!("False"))
}

fn watch(server: &ApiServer, rules: &[&str]) -> Allowlist {
    let rules: Vec<Rule> = rules.iter().map(|rule| rule.parse().unwrap()).collect();
    let pool = PoolRef::new("llm", "pool", "inference.networking.k8s.io").unwrap();
    Allowlist::watch(pool, rules, source(server)).unwrap()
}

fn source(server: &ApiServer) -> ClientSource {
    ClientSource::Config(Box::new(kube::Config::new(server.uri().parse().unwrap())))
}

/// A server with a pool on port 8000 and the pod `a` at 10.0.0.1, and a list that knows them.
async fn settled() -> (ApiServer, Allowlist) {
    let server = ApiServer::start();
    server.apply(POOLS, &pool("llm", &[8000]));
    server.apply(PODS, &pod("a", &["10.0.0.1"]));
    let list = watch(&server, &[]);
    allowed(&list, "10.0.0.1:8000").await;
    until("both watches are open", || server.open_watches() == 2).await;
    (server, list)
}

fn verdict(list: &Allowlist, target: &str) -> Verdict {
    list.check(&target.parse().unwrap())
}

async fn allowed(list: &Allowlist, target: &str) {
    until(&format!("{target} is allowed"), || verdict(list, target) == Verdict::Allowed).await;
}

async fn denied(list: &Allowlist, target: &str) {
    until(&format!("{target} is denied"), || verdict(list, target) == Verdict::Denied).await;
}

/// Waits until a target is refused for now, and readiness is withheld, for a reason with these words.
async fn unknown(list: &Allowlist, target: &str, words: &[&str]) {
    let says = |text: &str| words.iter().all(|word| text.contains(word));
    let what = format!("{target} is refused for now because of {words:?}");
    until(&what, || {
        let refused = matches!(verdict(list, target), Verdict::Unknown(reason) if says(&reason));
        refused && list.readiness().is_err_and(|reason| says(&reason))
    })
    .await;
}

/// Waits until a failing call is reported with these words.
async fn trouble(list: &Allowlist, words: &[&str]) {
    until(&format!("trouble with {words:?} is reported"), || {
        list.status().trouble.is_some_and(|text| words.iter().all(|word| text.contains(word)))
    })
    .await;
}

async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "in vain: {what}");
        tokio::time::sleep(GLANCE).await;
    }
}

/// Asks without a pause whether a target is allowed, on a thread of its own.
struct Witness {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<Vec<Verdict>>,
}

impl Witness {
    fn of(list: &Allowlist, target: &str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (list, target, stopped) = (list.clone(), target.parse().unwrap(), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            let mut others = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                match list.check(&target) {
                    Verdict::Allowed => {}
                    other => others.push(other),
                }
                std::thread::sleep(Duration::from_micros(50));
            }
            others
        });
        Self { stop, thread }
    }

    /// Ends it; it must never have heard anything but yes.
    fn saw_no_gap(self) {
        self.stop.store(true, Ordering::Relaxed);
        assert_eq!(self.thread.join().unwrap(), []);
    }
}
