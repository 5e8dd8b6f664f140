//! Where the client comes from: given, by TLS, or found in the environment once there is something to find.

use super::*;
use std::path::Path;
use std::process::Command;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use tokio_rustls::TlsAcceptor;

#[tokio::test]
async fn a_client_of_the_caller_is_used_as_it_is() {
    let server = ApiServer::start();
    server.apply(POOLS, &pool("llm", &[8000]));
    server.apply(PODS, &pod("a", &["10.0.0.1"]));
    let client = kube::Client::try_from(kube::Config::new(server.uri().parse().unwrap())).unwrap();
    let pool = PoolRef::new("llm", "pool", "inference.networking.k8s.io").unwrap();
    let list = Allowlist::watch(pool, Vec::new(), ClientSource::Client(client)).unwrap();
    allowed(&list, "10.0.0.1:8000").await;
}

/// A server certificate for 127.0.0.1 and the certificate of its issuer.
fn certificates() -> (TlsAcceptor, Vec<u8>) {
    let mut params = CertificateParams::new([]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let issuer_key = KeyPair::generate().unwrap();
    let root = params.self_signed(&issuer_key).unwrap();
    let issuer = Issuer::new(params, issuer_key);
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let config = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], key)
        .unwrap();
    (TlsAcceptor::from(Arc::new(config)), root.der().to_vec())
}

#[tokio::test]
async fn the_api_servers_certificate_is_checked() {
    let (acceptor, root) = certificates();
    let server = ApiServer::start_with(Some(acceptor));
    server.apply(POOLS, &pool("llm", &[8000]));
    server.apply(PODS, &pod("a", &["10.0.0.1"]));
    let with_root = |root: Vec<u8>| {
        let mut config = kube::Config::new(server.uri().parse().unwrap());
        config.root_cert = Some(vec![root]);
        let pool = PoolRef::new("llm", "pool", "inference.networking.k8s.io").unwrap();
        Allowlist::watch(pool, Vec::new(), ClientSource::Config(Box::new(config))).unwrap()
    };
    allowed(&with_root(root), "10.0.0.1:8000").await;
    let (_, stranger) = certificates();
    unknown(&with_root(stranger), "10.0.0.1:8000", &["cannot reach", "certificate"]).await;
}

#[test]
fn a_configuration_that_comes_late_is_found() {
    // The environment belongs to the process, so this part runs in one of its own.
    let kubeconfig =
        Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("kubeconfig-{}", std::process::id()));
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--ignored", "client::in_a_process_of_its_own"])
        .env("KUBECONFIG", &kubeconfig)
        .env_remove("KUBERNETES_SERVICE_HOST")
        .output()
        .unwrap();
    let _ = std::fs::remove_file(&kubeconfig);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

#[tokio::test]
#[ignore = "its environment is prepared by a_configuration_that_comes_late_is_found"]
async fn in_a_process_of_its_own() {
    let server = ApiServer::start();
    server.apply(POOLS, &pool("llm", &[8000]));
    server.apply(PODS, &pod("a", &["10.0.0.1"]));
    let pool = PoolRef::new("llm", "pool", "inference.networking.k8s.io").unwrap();
    let list = Allowlist::watch(pool, Vec::new(), ClientSource::Infer).unwrap();
    unknown(&list, "10.0.0.1:8000", &["no Kubernetes client configuration", "KUBECONFIG", "token"]).await;
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": server.uri()}}],
        "users": [{"name": "u", "user": {}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    });
    // In one step, since a configuration half written is another error.
    let path = std::env::var("KUBECONFIG").unwrap();
    std::fs::write(format!("{path}.new"), config.to_string()).unwrap();
    std::fs::rename(format!("{path}.new"), path).unwrap();
    allowed(&list, "10.0.0.1:8000").await;
}
