//! New certificates while streams flow.

use std::net::SocketAddr;

use crate::common::{APIS, Opened};
use crate::listener::rig;
use crate::pki::{Authority, Folder, Pair, eventually};
use crate::visitor::{ANY, client, shown, speaking, trusting};
use kvferry_emulator::Speeds;

async fn shows(to: SocketAddr, pair: &Pair) {
    eventually(async || shown(to).await == pair.der).await;
}

#[tokio::test]
async fn new_clients_get_the_new_certificate_and_open_streams_go_on() {
    let authority = Authority::new("ours");
    let [old, new] = [(); 2].map(|()| authority.server(&["localhost"]));
    let folder = Folder::with(&old);
    let rig = rig(&[&format!("--cert-path={}", folder.path().display())]).await;
    rig.decode.set_speeds(Speeds { itl_ms: 10, ..Speeds::default() });
    let mut streams = Vec::new();
    for protocols in [ANY, &[b"http/1.1"]] {
        let (mut client, _) = client(rig.address(), &speaking(trusting(), protocols)).await;
        // Far more than flow until the new certificate is there; the client ends it.
        let ask = rig.ask(APIS[0].path, APIS[0].value("go on", 100_000, true).to_string());
        let mut answer = Opened::new(client.begin(ask).await.unwrap(), Some(client));
        answer.until("data: ").await;
        streams.push(answer);
    }
    assert_eq!(shown(rig.address()).await, old.der);

    folder.put(&new);
    shows(rig.address(), &new).await;
    for stream in &mut streams {
        for _ in 0..10 {
            stream.until("data: ").await;
        }
    }
    drop(streams);
    let (mut client, _) = client(rig.address(), &speaking(trusting(), ANY)).await;
    client.send(rig.ask(APIS[0].path, APIS[0].body(false))).await.ok();
    drop(client);
    rig.end().await;
}

#[tokio::test]
async fn a_pair_that_does_not_fit_changes_nothing_and_one_that_fits_is_taken_after_it() {
    let authority = Authority::new("ours");
    let [old, bad, new] = [(); 3].map(|()| authority.server(&["localhost"]));
    let folder = Folder::with(&old);
    let rig = rig(&[&format!("--cert-path={}", folder.path().display())]).await;

    // The certificate of one and the key of another.
    folder.write("tls.crt", &bad.certificate);
    // Longer than a change takes to be noticed; a machine that is slower sees less and fails no sooner.
    tokio::time::sleep(2 * (kvferry_tls::POLL + kvferry_tls::SETTLE)).await;
    assert_eq!(shown(rig.address()).await, old.der);
    let (mut client, _) = client(rig.address(), &speaking(trusting(), ANY)).await;
    client.send(rig.ask(APIS[0].path, APIS[0].body(true))).await.ok();
    drop(client);

    folder.put(&new);
    shows(rig.address(), &new).await;
    rig.end().await;
}
