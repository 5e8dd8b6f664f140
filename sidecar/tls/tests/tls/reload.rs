//! Files replaced while connections are open: new ones get the new set, open ones stay, bad sets change nothing.

use std::fs;
use std::os::unix::fs::symlink;

use kvferry_tls::{LegOptions, LegTls, ListenerOptions, ListenerTls, POLL, SETTLE};
use rustls::pki_types::CertificateDer;

use super::common::*;

async fn shows(listener: &ListenerTls) -> CertificateDer<'static> {
    let (_, client) = meet(listener, &unverified(), "localhost").await;
    shown(client.get_ref().1)
}

/// Longer than a change takes to be noticed on an idle machine. On a busy one a test that waits so long sees less, and
/// still does not fail.
async fn time_to_notice() {
    tokio::time::sleep((POLL + SETTLE) * 2).await;
}

#[tokio::test]
async fn a_new_pair_is_shown_to_new_clients_and_open_connections_stay() {
    let authority = Authority::new("ours");
    let (old, new) = (authority.server(&["localhost"]), authority.server(&["localhost"]));
    let folder = Folder::with(&old);
    let listener = serving(&folder);
    let (mut server, mut client) = meet(&listener, &unverified(), "localhost").await;
    assert_eq!(shown(client.get_ref().1), old.der);

    folder.put(&new);
    eventually(async || shows(&listener).await == new.der).await;
    converse(&mut server, &mut client).await.unwrap();
}

#[tokio::test]
async fn half_a_new_pair_changes_nothing_until_the_other_half_is_there() {
    let authority = Authority::new("ours");
    let (old, new) = (authority.server(&["localhost"]), authority.server(&["localhost"]));
    let folder = Folder::with(&old);
    let listener = serving(&folder);

    folder.write("tls.crt", &new.certificate);
    time_to_notice().await;
    assert_eq!(shows(&listener).await, old.der);
    folder.write("tls.key", &new.key);
    eventually(async || shows(&listener).await == new.der).await;
}

#[tokio::test]
async fn damaged_or_vanished_files_change_nothing() {
    let authority = Authority::new("ours");
    let (old, new) = (authority.server(&["localhost"]), authority.server(&["localhost"]));
    let folder = Folder::with(&old);
    let listener = serving(&folder);

    folder.write("tls.crt", &new.certificate[..100]);
    folder.write("tls.key", &new.key);
    time_to_notice().await;
    assert_eq!(shows(&listener).await, old.der);
    fs::remove_file(folder.file("tls.crt")).unwrap();
    fs::remove_file(folder.file("tls.key")).unwrap();
    time_to_notice().await;
    assert_eq!(shows(&listener).await, old.der);
    folder.put(&new);
    eventually(async || shows(&listener).await == new.der).await;
}

/// A mounted secret: `tls.crt` -> `..data/tls.crt`, and `..data` -> a folder per version, replaced in one rename.
#[tokio::test]
async fn a_secret_replaced_as_kubernetes_does_is_noticed() {
    let authority = Authority::new("ours");
    let versions = [authority.server(&["localhost"]), authority.server(&["localhost"])];
    let folder = Folder::new();
    let publish = |name: &str, pair: &Pair| {
        let version = folder.file(name);
        fs::create_dir(&version).unwrap();
        fs::write(version.join("tls.crt"), &pair.certificate).unwrap();
        fs::write(version.join("tls.key"), &pair.key).unwrap();
        symlink(name, folder.file("..data_tmp")).unwrap();
        fs::rename(folder.file("..data_tmp"), folder.file("..data")).unwrap();
    };
    publish("..first", &versions[0]);
    for file in ["tls.crt", "tls.key"] {
        symlink(format!("..data/{file}"), folder.file(file)).unwrap();
    }
    let listener = serving(&folder);
    assert_eq!(shows(&listener).await, versions[0].der);

    publish("..second", &versions[1]);
    fs::remove_dir_all(folder.file("..first")).unwrap();
    eventually(async || shows(&listener).await == versions[1].der).await;
}

#[tokio::test]
async fn clients_of_a_removed_authority_are_refused_after_the_reload() {
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let (old_client, new_client) = (Folder::with(&old.client()), Folder::with(&new.client()));
    let folder = Folder::new();
    let client_ca = folder.write("clients.crt", &old.pem());
    let listener =
        ListenerTls::start(ListenerOptions { client_ca: Some(client_ca), ..ListenerOptions::default() })
            .unwrap();
    let leg = |own: &Folder| {
        let client_cert_dir = Some(own.path());
        LegTls::start(LegOptions { skip_verify: true, client_cert_dir, ..LegOptions::default() }).unwrap()
    };
    let (old_leg, new_leg) = (leg(&old_client), leg(&new_client));
    let (mut server, mut client) = meet(&listener, &old_leg, "localhost").await;
    let before = shown(client.get_ref().1);
    assert!(shake(&listener, &new_leg, "localhost").await.0.is_err());

    folder.write("clients.crt", &new.pem());
    eventually(async || shake(&listener, &new_leg, "localhost").await.0.is_ok()).await;
    assert!(shake(&listener, &old_leg, "localhost").await.0.is_err());
    converse(&mut server, &mut client).await.unwrap();
    let (_, client) = meet(&listener, &new_leg, "localhost").await;
    assert_eq!(shown(client.get_ref().1), before, "the self-signed certificate stays as it was");
}

#[tokio::test]
async fn a_leg_shows_its_new_certificate_and_trusts_the_new_authority() {
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let (first, second) = (old.client(), old.client());
    let own = Folder::with(&first);
    let ca = own.write("servers.crt", &old.pem());
    let servers = Folder::with(&old.server(&["localhost"]));
    let client_ca = Some(servers.write("clients.crt", &old.pem()));
    let guarded = |folder: &Folder| {
        let (cert_dir, client_ca) = (Some(folder.path()), client_ca.clone());
        ListenerTls::start(ListenerOptions { cert_dir, client_ca, ..ListenerOptions::default() }).unwrap()
    };
    let listener = guarded(&servers);
    let leg = LegTls::start(LegOptions {
        ca: Some(ca),
        client_cert_dir: Some(own.path()),
        ..LegOptions::default()
    })
    .unwrap();
    let (server, _) = meet(&listener, &leg, "localhost").await;
    assert_eq!(shown(server.get_ref().1), first.der);

    own.put(&second);
    eventually(async || shown(meet(&listener, &leg, "localhost").await.0.get_ref().1) == second.der).await;

    let renewed = Folder::with(&new.server(&["localhost"]));
    let renewed = guarded(&renewed);
    assert!(shake(&renewed, &leg, "localhost").await.1.is_err());
    own.write("servers.crt", &new.pem());
    eventually(async || shake(&renewed, &leg, "localhost").await.1.is_ok()).await;
    assert!(
        shake(&listener, &leg, "localhost").await.1.is_err(),
        "sessions of the old authority are forgotten"
    );
}
