//! `--enable-ssrf-protection`: targets are the ready pods of an InferencePool, and whoever waits for the API server's word
//! is told so. The sidecar itself waits for nobody.

use std::net::SocketAddr;

use crate::child::{Process, empty, engine};
use crate::common::{APIS, Answer, Ask, reserve_port};
use crate::double::{ApiServer, PODS, POOLS, Verb};
use crate::pki::{Folder, eventually};
use kvferry_emulator::Emulator;
use serde_json::{Value, json};

/// A pool for pods of the application `llm`, on these ports.
fn pool(ports: &[u16]) -> Value {
    let ports: Vec<_> = ports.iter().map(|port| json!({"number": port})).collect();
    json!({
        "metadata": {"name": "pool", "namespace": "llm", "uid": "1"},
        "spec": {"selector": {"matchLabels": {"app": "llm"}}, "targetPorts": ports},
    })
}

fn pod(name: &str, address: &str, ready: bool) -> Value {
    let ready = if ready { "True" } else { "False" };
    json!({
        "metadata": {"name": name, "namespace": "llm", "labels": {"app": "llm"}},
        "spec": {"containers": [{"name": "engine"}]},
        "status": {
            "phase": "Running",
            "podIP": address,
            "podIPs": [{"ip": address}],
            "conditions": [{"type": "Ready", "status": ready}],
        },
    })
}

/// A sidecar that follows `llm/pool`, and everything around it.
struct World {
    prefill: Emulator,
    decode: Emulator,
    server: ApiServer,
    folder: Folder,
    process: Process,
    admin: SocketAddr,
}

impl World {
    /// The API server is reached as soon as there is a configuration and it is up.
    async fn start(server: ApiServer, configured: bool, flags: &[&str]) -> Self {
        let (prefill, decode) = (engine().await, engine().await);
        let folder = Folder::new();
        if configured {
            configure(&folder, &server);
        }
        let ((port, _one), (admin, _two)) = (reserve_port(), reserve_port());
        let usual = [
            "--secure-serving=false".to_owned(),
            "--enable-ssrf-protection".to_owned(),
            "--inference-pool=llm/pool".to_owned(),
            format!("--model-server-port={}", decode.addr().port()),
            format!("--metrics-port={admin}"),
        ];
        let all: Vec<&str> = usual.iter().map(String::as_str).chain(flags.iter().copied()).collect();
        let path = folder.file("kubeconfig");
        let variables = [("KUBECONFIG", path.to_str().unwrap()), ("KUBERNETES_SERVICE_HOST", "")];
        let process = Process::start_as(port, &variables, &all).await;
        let admin = ([127, 0, 0, 1], admin).into();
        Self { prefill, decode, server, folder, process, admin }
    }

    async fn ask(&self, target: &str) -> Answer {
        let ask = Ask::post(APIS[0].path, APIS[0].body(false)).prefill(target);
        ask.send(self.process.address).await
    }

    async fn handoff(&self) -> Answer {
        self.ask(&self.prefill.host_port()).await
    }

    /// Whether it is ready, and if not, why.
    async fn ready(&self) -> (u16, String) {
        let answer = Ask::get("/ready").send(self.admin).await;
        (answer.status.as_u16(), answer.json()["reasons"].to_string())
    }

    async fn until_served(&self) {
        eventually(async || self.handoff().await.status.is_success()).await;
        assert_eq!(self.ready().await.0, 200);
    }

    async fn until_denied(&self) {
        eventually(async || self.handoff().await.status == 403).await;
    }

    /// What needs no list is served, what needs it is refused with these words, and readiness says them too.
    async fn waits(&self, words: &[&str]) {
        let to = self.process.address;
        Ask::get("/health").send(to).await.ok();
        Ask::get("/v1/models").send(to).await.ok();
        Ask::post(APIS[0].path, APIS[0].body(true)).send(to).await.ok();
        let says = |text: &str| words.iter().all(|word| text.contains(word));
        eventually(async || says(&self.handoff().await.text())).await;
        let answer = self.handoff().await;
        answer.is_error(503, "allowlist_unavailable", "the list of allowed prefill targets is not available");
        let (status, reasons) = self.ready().await;
        assert_eq!(status, 503);
        assert!(reasons.contains("allowlist") && says(&reasons), "{reasons}");
        assert!(self.prefill.requests().is_empty());
    }

    async fn end(self) {
        empty([&self.prefill, &self.decode]).await;
        self.process.end().await;
    }
}

fn configure(folder: &Folder, server: &ApiServer) {
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": server.uri()}}],
        "users": [{"name": "u", "user": {}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    });
    // In one step, since a configuration half written is another error.
    let new = folder.write("kubeconfig.new", &config.to_string());
    std::fs::rename(new, folder.file("kubeconfig")).unwrap();
}

/// The pool, and the prefill engine as its one ready pod.
fn populate(world: &World) {
    world.server.apply(POOLS, &pool(&[world.prefill.addr().port()]));
    world.server.apply(PODS, &pod("prefill-0", "127.0.0.1", true));
}

#[tokio::test]
async fn without_an_api_server_the_port_opens_and_only_handoffs_wait() {
    let world = World::start(ApiServer::stopped(None), true, &[]).await;
    world.waits(&["cannot reach the Kubernetes API server", "llm"]).await;

    let mut world = world;
    populate(&world);
    world.server.up();
    world.until_served().await;
    world.end().await;
}

#[tokio::test]
async fn without_a_client_configuration_the_refusal_says_what_to_do_until_there_is_one() {
    let world = World::start(ApiServer::start(), false, &[]).await;
    world.waits(&["no Kubernetes client configuration", "KUBECONFIG"]).await;
    populate(&world);
    configure(&world.folder, &world.server);
    world.until_served().await;
    world.end().await;
}

#[tokio::test]
async fn a_missing_permission_is_named_and_once_granted_works() {
    let server = ApiServer::start();
    server.refuse(PODS, Verb::List, 403);
    server.apply(POOLS, &pool(&[1]));
    let world = World::start(server, true, &[]).await;
    world.waits(&["forbids to list pods", "bind a Role"]).await;
    populate(&world);
    world.server.grant(PODS, Verb::List);
    world.until_served().await;
    world.end().await;
}

#[tokio::test]
async fn ready_pods_are_targets_on_the_pools_ports_by_address_and_by_name() {
    let world = World::start(ApiServer::start(), true, &[]).await;
    populate(&world);
    world.until_served().await;
    let other = engine().await;
    for target in [other.host_port(), world.decode.host_port(), "127.0.0.2:80".to_owned()] {
        let answer = world.ask(&target).await;
        assert_eq!((answer.status.as_u16(), answer.header("x-kvferry-error")), (403, "target_denied"));
    }
    assert!(other.requests().is_empty());

    // A pod that is not ready any more, is again, and is gone.
    world.server.apply(PODS, &pod("prefill-0", "127.0.0.1", false));
    world.until_denied().await;
    world.server.apply(PODS, &pod("prefill-0", "127.0.0.1", true));
    world.until_served().await;
    world.server.delete(PODS, "prefill-0");
    world.until_denied().await;
    world.end().await;
}

#[tokio::test]
async fn a_deleted_pool_allows_nobody_and_readiness_says_so() {
    let world = World::start(ApiServer::start(), true, &[]).await;
    populate(&world);
    world.until_served().await;
    world.server.delete(POOLS, "pool");
    world.until_denied().await;
    let (status, reasons) = world.ready().await;
    assert_eq!(status, 503);
    assert!(reasons.contains("llm/pool"), "{reasons}");
    Ask::post(APIS[0].path, APIS[0].body(true)).send(world.process.address).await.ok();
    populate(&world);
    world.until_served().await;
    world.end().await;
}

#[tokio::test]
async fn an_api_server_that_goes_away_leaves_the_list_as_it_was() {
    let mut world = World::start(ApiServer::start(), true, &[]).await;
    populate(&world);
    world.until_served().await;
    world.server.down().await;
    for _ in 0..20 {
        world.handoff().await.ok();
    }
    assert_eq!(world.ready().await.0, 200);
    // What it missed meanwhile it learns when the server is back.
    world.server.delete(PODS, "prefill-0");
    world.server.up();
    world.until_denied().await;
    world.end().await;
}

#[tokio::test]
async fn listed_targets_need_no_api_server() {
    let other = engine().await;
    let allow = format!("--allow-target={}", other.host_port());
    let world = World::start(ApiServer::stopped(None), true, &[&allow]).await;
    world.waits(&["cannot reach the Kubernetes API server"]).await;
    world.ask(&other.host_port()).await.ok();
    crate::common::eventually("the other engine is empty", || other.state().idle()).await;
    world.end().await;
}

#[tokio::test]
async fn the_log_tells_of_an_absent_api_server_in_words_of_ours() {
    let world = World::start(ApiServer::stopped(None), true, &[]).await;
    world.waits(&["cannot reach"]).await;
    let says = |line: &Value| line.to_string().contains("cannot reach the Kubernetes API server");
    eventually(async || world.process.log().iter().any(says)).await;
    world.end().await;
}
