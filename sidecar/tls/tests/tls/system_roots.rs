//! The system's authorities, seen through the variables that replace them. They are set for a process of its own: each
//! test here starts itself once more with them.

use std::path::Path;
use std::process::Command;

use kvferry_tls::{HandshakeError, LegOptions, LegTls, ListenerOptions, ListenerTls};

use super::common::*;

/// Tells the inner run from the outer one, and where the files are.
const FOLDER: &str = "KVFERRY_TLS_TEST_FOLDER";

/// Runs the test `name` of this module again, with `bundle` as all that the system trusts.
fn again(name: &str, folder: &Folder, bundle: &Path) {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &format!("system_roots::{name}"), "--nocapture"])
        .env(FOLDER, folder.path())
        .env("SSL_CERT_FILE", bundle)
        .env_remove("SSL_CERT_DIR")
        .output()
        .unwrap();
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && printed.contains("1 passed"), "{printed}");
}

#[tokio::test]
async fn the_systems_authorities_are_trusted_beside_the_bundle() {
    if let Some(folder) = std::env::var_os(FOLDER) {
        let pair_dir = Path::new(&folder).to_owned();
        let listener = ListenerTls::start(ListenerOptions {
            cert_dir: Some(pair_dir.clone()),
            ..ListenerOptions::default()
        })
        .unwrap();
        meet(&listener, &LegTls::start(LegOptions::default()).unwrap(), "localhost").await;
        meet(&listener, &trusting(pair_dir.join("other.crt")), "localhost").await;
        return;
    }
    let system = Authority::new("system");
    let folder = Folder::with(&system.server(&["localhost"]));
    folder.write("other.crt", &Authority::new("other").pem());
    let bundle = folder.write("system.crt", &system.pem());
    again("the_systems_authorities_are_trusted_beside_the_bundle", &folder, &bundle);
}

#[tokio::test]
async fn without_any_authority_only_legs_that_verify_fail_and_only_when_opened() {
    if let Some(folder) = std::env::var_os(FOLDER) {
        let listener = self_signed();
        let verifying = LegTls::start(LegOptions::default()).unwrap();
        let error = why(shake_client_only(&verifying).await);
        assert_eq!(error, HandshakeError::NoAuthorities);
        let message = error.to_string();
        for remedy in ["ca-certificates", "SSL_CERT_FILE", "--leg-ca-path", "--tls-insecure-skip-verify"] {
            assert!(message.contains(remedy), "{message}");
        }

        meet(&listener, &unverified(), "localhost").await;
        let refused =
            why(shake(&listener, &trusting(Path::new(&folder).join("ca.crt")), "localhost").await.1);
        assert!(matches!(refused, HandshakeError::Refused(_)), "with a bundle there is somebody to trust");
        return;
    }
    let folder = Folder::new();
    folder.write("ca.crt", &Authority::new("ours").pem());
    let empty = folder.write("empty.crt", "");
    again("without_any_authority_only_legs_that_verify_fail_and_only_when_opened", &folder, &empty);
}

async fn shake_client_only(leg: &LegTls) -> std::io::Result<Client> {
    let (near, _far) = loopback().await;
    leg.connect("localhost", near).await
}
