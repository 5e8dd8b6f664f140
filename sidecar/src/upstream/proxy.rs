//! Forward proxies that the environment names (`HTTP_PROXY`, `HTTPS_PROXY`, `NO_PROXY`; spec/sidecar.md 1.4).
//!
//! Plain requests go to the proxy in absolute form; TLS goes through a tunnel (RFC 9110, section 9.3.6). Engines of this
//! pod are never reached through a proxy, and neither are loopback addresses.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::header::PROXY_AUTHORIZATION;
use http::uri::{Parts, Scheme};
use http::{HeaderValue, Request, Uri};
use hyper_util::client::proxy::matcher::Matcher;
use kvferry_contract::Endpoint;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::LegBody;
use crate::error::Broken;

/// Longest answer to CONNECT that is read, in bytes. Only its status matters.
const MAX_HEAD: usize = 16 * 1024;

/// How long a proxy may take to open a tunnel: as long as a connection may take by default.
const TUNNEL_PATIENCE: Duration = Duration::from_secs(30);

/// The proxies, and whom they are not for.
#[derive(Clone)]
pub struct Proxies(Arc<Matcher>);

/// The proxy for one engine.
#[derive(Debug, Clone)]
pub(super) struct Proxy {
    /// Where it is.
    pub(super) endpoint: Endpoint,
    authorization: Option<HeaderValue>,
}

impl std::fmt::Debug for Proxies {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // It may hold passwords.
        f.write_str("Proxies")
    }
}

impl Proxies {
    /// As the three variables name them; `None` if there is no proxy.
    pub fn new(http: Option<&str>, https: Option<&str>, no: Option<&str>) -> Option<Self> {
        if http.is_none() && https.is_none() {
            return None;
        }
        let mut builder = Matcher::builder();
        if let Some(http) = http {
            builder = builder.http(http.to_owned());
        }
        if let Some(https) = https {
            builder = builder.https(https.to_owned());
        }
        Some(Self(Arc::new(builder.no(no.unwrap_or_default().to_owned()).build())))
    }

    /// The proxy through which to reach `engine`, if any.
    pub(super) fn to(&self, engine: &Endpoint, tls: bool) -> Option<Proxy> {
        let host = engine.host();
        if host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback()) {
            return None;
        }
        let scheme = if tls { "https" } else { "http" };
        let proxy = self.0.intercept(&format!("{scheme}://{engine}/").parse().ok()?)?;
        let uri = proxy.uri();
        let port = uri.port_u16().unwrap_or(80);
        let endpoint = format!("{}:{port}", uri.host()?).parse().ok()?;
        Some(Proxy { endpoint, authorization: proxy.basic_auth().cloned() })
    }
}

impl Proxy {
    /// Writes a plain request as a proxy wants it.
    pub(super) fn address(&self, request: &mut Request<LegBody>, engine: &Endpoint) {
        let mut parts = Parts::default();
        parts.scheme = Some(Scheme::HTTP);
        parts.authority = engine.to_string().parse().ok();
        parts.path_and_query = request.uri().path_and_query().cloned();
        if let Ok(uri) = Uri::from_parts(parts) {
            *request.uri_mut() = uri;
        }
        if let Some(authorization) = &self.authorization {
            request.headers_mut().insert(PROXY_AUTHORIZATION, authorization.clone());
        }
    }

    /// Opens a tunnel to `engine` over a connection to the proxy.
    pub(super) async fn tunnel(&self, mut stream: TcpStream, engine: &Endpoint) -> Result<TcpStream, Broken> {
        let refused = |why: String| Broken::Connect(format!("proxy {}: {why}", self.endpoint));
        let opening = async {
            let authorization = match self.authorization.as_ref().and_then(|value| value.to_str().ok()) {
                Some(value) => format!("Proxy-Authorization: {value}\r\n"),
                None => String::new(),
            };
            let request = format!("CONNECT {engine} HTTP/1.1\r\nHost: {engine}\r\n{authorization}\r\n");
            stream.write_all(request.as_bytes()).await?;
            let mut head = Vec::new();
            // Byte by byte: what follows the head belongs to the engine.
            while !head.ends_with(b"\r\n\r\n") && head.len() < MAX_HEAD {
                head.push(stream.read_u8().await?);
            }
            std::io::Result::Ok((stream, head))
        };
        let opened = tokio::time::timeout(TUNNEL_PATIENCE, opening).await;
        let (stream, head) = opened
            .map_err(|_| refused("no answer to CONNECT".to_owned()))?
            .map_err(|error| refused(error.to_string()))?;
        let status = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
        if status.starts_with(b"HTTP/1.") && status.get(9) == Some(&b'2') {
            Ok(stream)
        } else {
            Err(refused(format!("it refused the tunnel: {}", String::from_utf8_lossy(status))))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn way(proxies: &Proxies, engine: &str, tls: bool) -> Option<String> {
        proxies.to(&engine.parse().unwrap(), tls).map(|proxy| proxy.endpoint.to_string())
    }

    #[test]
    fn proxies_are_used_as_the_environment_says_and_never_for_this_pod() {
        assert!(Proxies::new(None, None, Some("x")).is_none());
        let proxies =
            Proxies::new(Some("http://u:p@proxy:3128"), Some("proxy2:3129"), Some("10.0.0.0/8,.pool.svc"))
                .unwrap();
        assert_eq!(way(&proxies, "prefill:8000", false).as_deref(), Some("proxy:3128"));
        assert_eq!(way(&proxies, "prefill:8000", true).as_deref(), Some("proxy2:3129"));
        for engine in ["localhost:8200", "127.0.0.1:8200", "[::1]:8200", "10.1.2.3:8000", "a.pool.svc:8000"] {
            assert_eq!(way(&proxies, engine, false), None, "{engine}");
        }
    }

    #[test]
    fn a_plain_request_is_addressed_to_the_engine_with_the_proxys_credentials() {
        let proxies = Proxies::new(Some("http://u:p@proxy:3128"), None, None).unwrap();
        let engine = "prefill:8000".parse().unwrap();
        let proxy = proxies.to(&engine, false).unwrap();
        let mut request = Request::new(LegBody::empty());
        *request.uri_mut() = Uri::from_static("/v1/completions?a=b");
        proxy.address(&mut request, &engine);
        assert_eq!(request.uri(), "http://prefill:8000/v1/completions?a=b");
        assert_eq!(request.headers()[PROXY_AUTHORIZATION], "Basic dTpw");
    }
}
