//! Looks hosts up while requests go on: the thin shell around [`Names`].

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;

use super::names::{Landed, Names};
use super::options::{Host, MoriIoOptions};

/// What happened to names since the start.
#[derive(Debug, Default)]
pub struct DnsCounters {
    /// Lookups after the start (`moriio_dns_reresolve_total`).
    pub lookups: AtomicU64,
    /// Lookups that found a host elsewhere than before (`moriio_dns_ip_changed_total`).
    pub moves: AtomicU64,
    /// Lookups that found nothing in time (`moriio_dns_lookup_failures_total`).
    pub failures: AtomicU64,
}

/// The addresses of a name.
type Lookup = Pin<Box<dyn Future<Output = io::Result<Vec<IpAddr>>> + Send>>;

/// Knows addresses, and asks for them in the background. Cheap to clone.
#[derive(Clone)]
pub(super) struct Resolver(Arc<Inner>);

struct Inner {
    names: Mutex<Names>,
    timeout: Duration,
    lookup: fn(String) -> Lookup,
    counters: Arc<DnsCounters>,
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resolver").field("names", &self.0.names).finish_non_exhaustive()
    }
}

impl Resolver {
    /// One that knows the hosts of `options`.
    pub(super) fn new(options: &MoriIoOptions, counters: Arc<DnsCounters>) -> Self {
        Self::with(options, counters, |name| {
            Box::pin(async move {
                let found = tokio::net::lookup_host((name, 0)).await?;
                Ok(found.map(|address| address.ip()).collect())
            })
        })
    }

    fn with(options: &MoriIoOptions, counters: Arc<DnsCounters>, lookup: fn(String) -> Lookup) -> Self {
        let mut names = Names::new(options.dns_ttl, options.dns_timeout);
        let now = Instant::now();
        for Host { name, address } in
            options.local_pod.iter().chain(&options.remote_hosts).chain(&options.decode_hosts)
        {
            names.seed(name, *address, now);
        }
        let timeout = options.dns_timeout;
        Self(Arc::new(Inner { names: Mutex::new(names), timeout, lookup, counters }))
    }

    /// The address of `name` as far as it is known. Never waits.
    pub(super) fn address(&self, name: &str) -> Option<IpAddr> {
        let look = self.0.with_names(|names| names.look(name, Instant::now()));
        // Without a runtime nobody could look; a later caller will.
        if look.ask
            && let Ok(runtime) = Handle::try_current()
        {
            runtime.spawn(Arc::clone(&self.0).refresh(name.to_owned()));
        }
        look.address
    }

    /// The address of a host of the flags.
    pub(super) fn host(&self, host: &Host) -> IpAddr {
        self.address(&host.name).unwrap_or(host.address)
    }
}

impl Inner {
    fn with_names<T>(&self, work: impl FnOnce(&mut Names) -> T) -> T {
        work(&mut self.names.lock().unwrap_or_else(PoisonError::into_inner))
    }

    async fn refresh(self: Arc<Self>, name: String) {
        self.counters.lookups.fetch_add(1, Relaxed);
        let found = tokio::time::timeout(self.timeout, (self.lookup)(name.clone())).await;
        let (found, why) = match found {
            Ok(Ok(found)) => (found, "it has no address".to_owned()),
            Ok(Err(error)) => (Vec::new(), error.to_string()),
            Err(_) => (Vec::new(), "the name server did not answer in time".to_owned()),
        };
        match self.with_names(|names| names.landed(&name, &found, Instant::now())) {
            Landed::Same => {}
            Landed::Moved => {
                self.counters.moves.fetch_add(1, Relaxed);
                tracing::info!(name, "a MoRI-IO host has a new address");
            }
            Landed::Failed => {
                self.counters.failures.fetch_add(1, Relaxed);
                tracing::warn!(name, why, "cannot look up a MoRI-IO host; its last address stays in use");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(dns_ttl: Duration, dns_timeout: Duration) -> MoriIoOptions {
        let host = |name: &str, address: &str| Host { name: name.into(), address: address.parse().unwrap() };
        MoriIoOptions {
            local_pod: Some(host("decode-0", "10.0.0.1")),
            remote_hosts: vec![host("prefill-0", "10.0.1.1"), host("10.0.1.2", "10.0.1.2")],
            dns_ttl,
            dns_timeout,
            ..MoriIoOptions::default()
        }
    }

    fn start(ttl: Duration, timeout: Duration, lookup: fn(String) -> Lookup) -> (Resolver, Arc<DnsCounters>) {
        let counters = Arc::new(DnsCounters::default());
        (Resolver::with(&options(ttl, timeout), Arc::clone(&counters), lookup), counters)
    }

    /// Waits until `counter` has reached `value`.
    async fn reached(counter: &AtomicU64, value: u64) {
        let reached = async {
            while counter.load(Relaxed) < value {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), reached).await.unwrap();
    }

    #[tokio::test]
    async fn hosts_are_known_from_the_start_without_a_lookup() {
        let (resolver, counters) = start(Duration::from_secs(30), Duration::from_secs(5), |name| {
            panic!("{name} was looked up")
        });
        let known = |name: &str| resolver.address(name).map(|address| address.to_string());
        assert_eq!(known("decode-0").as_deref(), Some("10.0.0.1"));
        assert_eq!(known("prefill-0").as_deref(), Some("10.0.1.1"));
        assert_eq!(known("10.0.1.2").as_deref(), Some("10.0.1.2"));
        assert_eq!(counters.lookups.load(Relaxed), 0);
    }

    #[tokio::test]
    async fn a_host_that_moved_is_found_again_and_nobody_waits_for_it() {
        let (resolver, counters) = start(Duration::ZERO, Duration::from_secs(5), |_| {
            Box::pin(async { Ok(vec!["10.0.0.2".parse().unwrap()]) })
        });
        assert_eq!(resolver.address("decode-0").unwrap().to_string(), "10.0.0.1");
        reached(&counters.moves, 1).await;
        assert_eq!(resolver.address("decode-0").unwrap().to_string(), "10.0.0.2");
    }

    #[tokio::test]
    async fn a_name_server_that_does_not_answer_or_knows_nothing_counts_and_changes_nothing() {
        let hang: fn(String) -> Lookup = |_| Box::pin(std::future::pending());
        let empty: fn(String) -> Lookup = |_| Box::pin(async { Ok(Vec::new()) });
        let fails: fn(String) -> Lookup = |_| Box::pin(async { Err(io::Error::other("no")) });
        for lookup in [hang, empty, fails] {
            let (resolver, counters) = start(Duration::ZERO, Duration::from_millis(20), lookup);
            resolver.address("decode-0");
            reached(&counters.failures, 1).await;
            assert_eq!(resolver.address("decode-0").unwrap().to_string(), "10.0.0.1");
            assert_eq!(counters.moves.load(Relaxed), 0);
        }
    }

    #[tokio::test]
    async fn many_requests_at_once_make_one_lookup() {
        let (resolver, counters) =
            start(Duration::ZERO, Duration::from_secs(60), |_| Box::pin(std::future::pending()));
        for _ in 0..100 {
            resolver.address("decode-0");
        }
        reached(&counters.lookups, 1).await;
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert_eq!(counters.lookups.load(Relaxed), 1);
    }

    #[tokio::test]
    async fn a_request_that_is_cancelled_does_not_take_the_lookup_with_it() {
        let (resolver, counters) = start(Duration::ZERO, Duration::from_secs(5), |_| {
            Box::pin(async {
                tokio::task::yield_now().await;
                Ok(vec!["10.0.0.2".parse().unwrap()])
            })
        });
        let request = tokio::spawn({
            let resolver = resolver.clone();
            async move {
                resolver.address("decode-0");
                std::future::pending::<()>().await;
            }
        });
        reached(&counters.lookups, 1).await;
        request.abort();
        reached(&counters.moves, 1).await;
    }

    #[test]
    fn outside_a_runtime_the_known_address_is_used() {
        let (resolver, counters) = start(Duration::ZERO, Duration::from_secs(5), |_| unreachable!());
        assert_eq!(resolver.address("decode-0").unwrap().to_string(), "10.0.0.1");
        assert_eq!(counters.lookups.load(Relaxed), 0);
    }
}
