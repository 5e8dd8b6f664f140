//! What only the environment sets.

use std::fmt;
use std::num::NonZeroU16;
use std::time::Duration;

use serde::{Serialize, Serializer};

use crate::world::World;

/// SGLang's own default.
const SGLANG_BOOTSTRAP_PORT: NonZeroU16 = NonZeroU16::new(8998).expect("not zero");

/// A pod that was replaced has a new address; no request should miss it for longer.
const DNS_TTL: Duration = Duration::from_secs(30);

/// A healthy name server answers in milliseconds.
const DNS_TIMEOUT: Duration = Duration::from_secs(5);

/// What only the environment sets. A field has the name of its variable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub struct Environment {
    /// Where SGLang's prefill engines wait for their decode engines.
    pub sglang_bootstrap_port: NonZeroU16,
    /// This pod's address as the cluster knows it, as given: an address, or a name.
    pub pod_ip: Option<String>,
    /// How long an address of a MoRI-IO host is trusted.
    #[serde(serialize_with = "seconds")]
    pub moriio_dns_resolve_ttl_seconds: Duration,
    /// How long looking up a MoRI-IO host may take.
    #[serde(serialize_with = "seconds")]
    pub moriio_dns_resolve_timeout_seconds: Duration,
    /// The old way to ask for metrics, as given. `Observability` has taken it into account.
    pub moriio_metrics_addr: Option<String>,
    /// Proxy for legs dialled with http.
    pub http_proxy: Option<ProxyUrl>,
    /// Proxy for legs dialled with https.
    pub https_proxy: Option<ProxyUrl>,
    /// Hosts dialled without a proxy, as given: a list with commas.
    pub no_proxy: Option<String>,
}

/// A proxy's address. It may hold a password, so printing it leaves that out.
#[derive(Clone, PartialEq, Eq)]
pub struct ProxyUrl(String);

impl ProxyUrl {
    /// The whole address, credentials included.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ProxyUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.rsplit_once('@') {
            None => f.write_str(&self.0),
            Some((before, host)) => {
                let scheme = before.find("://").map_or("", |end| &before[..end + "://".len()]);
                write!(f, "{scheme}***@{host}")
            }
        }
    }
}

impl fmt::Debug for ProxyUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for ProxyUrl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Environment {
    pub(crate) fn read(world: &World<'_>, warnings: &mut Vec<String>) -> Self {
        let text = |name: &str| (world.variable)(name).filter(|text| !text.is_empty());
        // Both spellings are in use; the loud one first, as Go does.
        let either = |name: &str| text(name).or_else(|| text(&name.to_ascii_lowercase()));
        let mut number = |name: &str, usable: &dyn Fn(u64) -> bool| {
            let text = text(name)?;
            let number = text.parse().ok().filter(|number| usable(*number));
            if number.is_none() {
                warnings.push(format!("{name}={text:?} is ignored"));
            }
            number
        };
        let is_port = |number| (1..=u64::from(u16::MAX)).contains(&number);
        let sglang_port = number("SGLANG_BOOTSTRAP_PORT", &is_port)
            .and_then(|port| u16::try_from(port).ok())
            .and_then(NonZeroU16::new);
        let is_positive = |number| number > 0;
        let ttl = number("MORIIO_DNS_RESOLVE_TTL_SECONDS", &is_positive);
        let timeout = number("MORIIO_DNS_RESOLVE_TIMEOUT_SECONDS", &is_positive);
        Self {
            sglang_bootstrap_port: sglang_port.unwrap_or(SGLANG_BOOTSTRAP_PORT),
            pod_ip: text("POD_IP"),
            moriio_dns_resolve_ttl_seconds: ttl.map_or(DNS_TTL, Duration::from_secs),
            moriio_dns_resolve_timeout_seconds: timeout.map_or(DNS_TIMEOUT, Duration::from_secs),
            moriio_metrics_addr: text("MORIIO_METRICS_ADDR"),
            http_proxy: either("HTTP_PROXY").map(ProxyUrl),
            https_proxy: either("HTTPS_PROXY").map(ProxyUrl),
            no_proxy: either("NO_PROXY"),
        }
    }
}

fn seconds<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(duration.as_secs())
}
