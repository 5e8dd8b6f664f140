//! The stand-in's HTTP: one request a connection, answered whole or as a chunked stream.

use std::collections::BTreeMap;

use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::cluster::{Shared, status};
use super::{ALPHA_POOLS, Ending, PODS, POOLS, Verb};

/// Serves one request; ends early, with none, when the client does.
pub(super) async fn serve(mut stream: impl AsyncRead + AsyncWrite + Unpin, shared: &Shared) -> Option<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    let head = String::from_utf8(head).unwrap();
    let target = head.split(' ').nth(1).unwrap();
    let (path, query) = target.split_once('?').unwrap();
    let query: BTreeMap<String, String> = query.split('&').filter_map(pair).collect();
    let verb = if query.contains_key("watch") { Verb::Watch } else { Verb::List };
    let Some(collection) = [PODS, POOLS, ALPHA_POOLS].into_iter().find(|known| *known == path) else {
        return answer(&mut stream, 404, &status(404, "page not found")).await;
    };
    let refusal = {
        let mut cluster = shared.cluster();
        *cluster.counts.entry((collection, verb)).or_default() += 1;
        let unknown = (!cluster.served.contains(collection)).then_some(404);
        cluster.refused.get(&(collection, verb)).copied().or(unknown)
    };
    if let Some(code) = refusal {
        return answer(&mut stream, code, &status(code, "refused by the double")).await;
    }
    match verb {
        Verb::List => {
            let mut tick = shared.tick.subscribe();
            while shared.cluster().held.contains(collection) {
                tick.changed().await.ok()?;
            }
            let (code, body) = shared.cluster().list(collection, &query);
            answer(&mut stream, code, &body).await
        }
        Verb::Watch => {
            let from: u64 = query["resourceVersion"].parse().unwrap();
            shared.cluster().watched_from.insert(collection, from);
            if from < shared.cluster().oldest {
                return answer(&mut stream, 410, &status(410, "too old resource version")).await;
            }
            shared.cluster().open += 1;
            let served = watch(&mut stream, shared, collection, &query, from).await;
            shared.cluster().open -= 1;
            served
        }
    }
}

async fn watch(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    shared: &Shared,
    collection: &'static str,
    query: &BTreeMap<String, String>,
    mut from: u64,
) -> Option<()> {
    let mut tick = shared.tick.subscribe();
    let (endings, mut sent) = {
        let cluster = shared.cluster();
        (cluster.endings, cluster.lines.len())
    };
    stream
        .write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n")
        .await
        .ok()?;
    loop {
        tick.mark_unchanged();
        let (lines, ending) = {
            let cluster = shared.cluster();
            let mut lines = if from < cluster.oldest {
                vec![json!({"type": "ERROR", "object": {"kind": "Status", "code": 410}}).to_string()]
            } else {
                cluster.events(collection, query, from)
            };
            from = cluster.version.max(from);
            let injected = cluster.lines[sent..].iter().filter(|(of, _)| *of == collection);
            lines.extend(injected.map(|(_, line)| line.clone()));
            sent = cluster.lines.len();
            (lines, cluster.ending.filter(|_| cluster.endings > endings))
        };
        // What has not been sent by then has to be asked for again.
        match ending {
            Some(Ending::Clean) => return stream.write_all(b"0\r\n\r\n").await.ok(),
            Some(Ending::Cut) => return chunk(stream, "{\"type\":\"DELETED\",\"obj").await,
            None => {}
        }
        for line in &lines {
            // In two chunks, since nothing promises that an event comes in one.
            let line = format!("{line}\n");
            let middle = line.len() / 2;
            for part in [&line[..middle], &line[middle..]] {
                chunk(stream, part).await?;
            }
        }
        tokio::select! {
            changed = tick.changed() => changed.ok()?,
            // The client says nothing more, so this is its end.
            _ = stream.read_u8() => return None,
        }
    }
}

async fn chunk(stream: &mut (impl AsyncWrite + Unpin), text: &str) -> Option<()> {
    if text.is_empty() {
        return Some(());
    }
    let chunk = format!("{:x}\r\n{text}\r\n", text.len());
    stream.write_all(chunk.as_bytes()).await.ok()?;
    stream.flush().await.ok()
}

async fn answer(stream: &mut (impl AsyncWrite + Unpin), code: u16, body: &str) -> Option<()> {
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {code} Double\r\ncontent-type: application/json\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.ok()?;
    stream.write_all(body.as_bytes()).await.ok()?;
    stream.shutdown().await.ok()
}

/// A `key=value` of a query, decoded.
fn pair(text: &str) -> Option<(String, String)> {
    let (key, value) = text.split_once('=')?;
    let mut bytes = Vec::new();
    let mut rest = value.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digits = [rest.next()?, rest.next()?];
                u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?
            }
            other => other,
        });
    }
    Some((key.to_owned(), String::from_utf8(bytes).ok()?))
}
