#[tokio::test(flavor = "multi_thread")]
async fn probe() {
    use crate::api::*;
    use crate::client::*;
    use kvferry_emulator::*;
    use std::time::Duration;
    let connector = std::env::var("CONNECTOR").unwrap_or("nixlv2".into());
    let slow: u64 = std::env::var("SLOW").map_or(23, |s| s.parse().unwrap());
    let config = || Config { speeds: Speeds { itl_ms: 150, ..Default::default() }, ..Default::default() };
    let p = Emulator::start(config()).await.unwrap();
    let d = Emulator::start(config()).await.unwrap();
    let port = crate::ports::Ports::new().next().unwrap();
    let mut child = std::process::Command::new("/tmp/kvferry-sidecar-debug3")
        .args(["--secure-serving=false", &format!("--port={port}"), &format!("--model-server-port={}", d.addr().port()), &format!("--kv-connector={connector}"), "--log-level=off"])
        .spawn().unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let to: std::net::SocketAddr = ([127, 0, 0, 1], port).into();
    let mut set = tokio::task::JoinSet::new();
    for n in 0..400_u64 {
        let target = p.host_port();
        set.spawn(async move {
            let protocol = if n % 2 == 0 { Protocol::Http2 } else { Protocol::Http1 };
            let mut c = Connection::open(to, protocol, None).await.unwrap();
            let wish = Wish { api: Api::Chat, prompt: 12, tokens: 24 };
            let call = Call { method: http::Method::POST, path: wish.api.path(), headers: vec![("x-prefiller-host-port", target)], body: wish.body(true, 1).into(), half: false };
            let mut a = c.send(call).await.unwrap();
            let began = std::time::Instant::now();
            let mut pieces = 0;
            let mut bytes = 0;
            let r = tokio::time::timeout(Duration::from_secs(15), async {
                loop {
                    match a.piece().await { None => break "end", Some(Err(_)) => break "broken", Some(Ok(b)) => { pieces += 1; bytes += b.len(); tokio::time::sleep(Duration::from_millis(slow)).await } }
                }
            }).await.unwrap_or("HUNG");
            if r == "HUNG" { println!("{protocol:?} {n} hung after {pieces} pieces {bytes} bytes, {:?}", began.elapsed()); }
            format!("{protocol:?} {r}")
        });
    }
    tokio::time::sleep(Duration::from_millis(2333)).await;
    d.restart();
    let mut counts = std::collections::BTreeMap::new();
    while let Some(r) = set.join_next().await { *counts.entry(r.unwrap()).or_insert(0) += 1; }
    println!("{counts:?}");
    child.kill().unwrap(); child.wait().unwrap();
    tokio::task::spawn_blocking(|| (p.stop(), d.stop())).await.unwrap();
}
#[test]
fn upsets() {
    let mut at = std::time::Duration::ZERO;
    for n in 0..12 { let (u, l) = crate::plan::upset(5, 3, n); println!("UPSET {at:?} {u:?}"); at += l; }
}
