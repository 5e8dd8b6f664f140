//! What the sidecar says it holds right now, by its own metrics.

use std::net::SocketAddr;

use bytes::Bytes;
use http::Method;

use crate::Result;
use crate::client::{Call, Connection, Protocol};

/// Gauges that are 0 when nothing runs, whatever their labels.
const ZERO_AT_REST: [&str; 3] = ["_kv_outstanding", "_in_flight", "_client_connections"];

/// Of the connections to engines, those that are kept for later may stay for a while.
const IN_USE: (&str, &str) = ("_upstream_connections", "state=\"in_use\"");

/// Asks on the metrics port what is held, in words; `None` if nothing is.
///
/// # Errors
/// It does not answer with metrics.
pub(crate) async fn holdings(metrics: SocketAddr) -> Result<Option<String>> {
    let mut connection = Connection::open(metrics, Protocol::Http1, None).await?;
    let call =
        Call { method: Method::GET, path: "/metrics", headers: Vec::new(), body: Bytes::new(), half: false };
    let body = connection.send(call).await?.whole().await?;
    held(&String::from_utf8_lossy(&body)).map_err(Into::into)
}

fn held(metrics: &str) -> Result<Option<String>, String> {
    let mut held = Vec::new();
    let mut seen = 0;
    for line in metrics.lines().filter(|line| !line.starts_with('#')) {
        let Some((series, value)) = line.rsplit_once(' ') else { continue };
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        let in_use = name.ends_with(IN_USE.0) && labels.contains(IN_USE.1);
        if !in_use && !ZERO_AT_REST.iter().any(|gauge| name.ends_with(gauge)) {
            continue;
        }
        seen += usize::from(!in_use && labels.is_empty());
        if value.parse() != Ok(0.0) {
            held.push(line);
        }
    }
    // Without the gauges nothing would ever be held.
    if seen < 2 {
        return Err("the sidecar's metrics do not say what it holds".to_owned());
    }
    Ok((!held.is_empty()).then(|| format!("sidecar: {}", held.join(", "))))
}

#[cfg(test)]
mod tests {
    use super::*;

    const REST: &str = "# TYPE a_in_flight gauge\na_in_flight{stage=\"decode\"} 0\na_kv_outstanding 0\n\
        a_client_connections 0\na_upstream_connections{leg=\"decode\",state=\"idle\"} 4\n\
        a_upstream_connections{leg=\"decode\",state=\"in_use\"} 0\na_kv_settled_total{how=\"expired\"} 3\n";

    #[test]
    fn kept_connections_and_counters_are_no_holdings() {
        assert_eq!(held(REST), Ok(None));
    }

    #[test]
    fn every_gauge_that_is_not_zero_is_told() {
        for (rest, busy) in [
            ("outstanding 0", "outstanding 2"),
            ("\"decode\"} 0", "\"decode\"} 1"),
            ("in_use\"} 0", "in_use\"} 1"),
            ("client_connections 0", "client_connections 9"),
        ] {
            let told = held(&REST.replace(rest, busy)).unwrap().unwrap();
            assert!(told.contains(busy), "{told}");
        }
    }

    #[test]
    fn metrics_without_the_gauges_prove_nothing() {
        assert!(held("up 1\n").is_err());
    }
}
