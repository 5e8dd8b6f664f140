//! Looks hosts up while requests go on: the thin shell around [`Names`].

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use kvferry_metrics::Metrics;
use tokio::runtime::Handle;

use super::names::{Landed, Names};
use super::options::{Host, MoriIoOptions};

/// The addresses of a name.
type Lookup = Pin<Box<dyn Future<Output = io::Result<Vec<IpAddr>>> + Send>>;

/// Knows addresses, and asks for them in the background. Cheap to clone.
#[derive(Clone)]
pub(super) struct Resolver(Arc<Inner>);

struct Inner {
    names: Mutex<Names>,
    timeout: Duration,
    lookup: fn(String) -> Lookup,
    metrics: Metrics,
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resolver").field("names", &self.0.names).finish_non_exhaustive()
    }
}

impl Resolver {
    /// One that knows the hosts of `options`.
    pub(super) fn new(options: &MoriIoOptions, metrics: Metrics) -> Self {
        Self::with(options, metrics, |name| {
            Box::pin(async move {
                let found = tokio::net::lookup_host((name, 0)).await?;
                Ok(found.map(|address| address.ip()).collect())
            })
        })
    }

    fn with(options: &MoriIoOptions, metrics: Metrics, lookup: fn(String) -> Lookup) -> Self {
        let mut names = Names::new(options.dns_ttl, options.dns_timeout);
        let now = Instant::now();
        for Host { name, address } in
            options.local_pod.iter().chain(&options.remote_hosts).chain(&options.decode_hosts)
        {
            names.seed(name, *address, now);
        }
        let timeout = options.dns_timeout;
        Self(Arc::new(Inner { names: Mutex::new(names), timeout, lookup, metrics }))
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
        self.metrics.dns_resolved();
        let found = tokio::time::timeout(self.timeout, (self.lookup)(name.clone())).await;
        let (found, why) = match found {
            Ok(Ok(found)) => (found, "it has no address".to_owned()),
            Ok(Err(error)) => (Vec::new(), error.to_string()),
            Err(_) => (Vec::new(), "the name server did not answer in time".to_owned()),
        };
        match self.with_names(|names| names.landed(&name, &found, Instant::now())) {
            Landed::Same => {}
            Landed::Moved => {
                self.metrics.dns_changed();
                tracing::info!(name, "a MoRI-IO host has a new address");
            }
            Landed::Failed => {
                self.metrics.dns_failed();
                tracing::warn!(name, why, "cannot look up a MoRI-IO host; its last address stays in use");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use kvferry_metrics::{Reading, Source};

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

    struct Nothing;

    impl Source for Nothing {
        fn reading(&self) -> Reading {
            Reading::default()
        }
    }

    struct Tried {
        resolver: Resolver,
        metrics: Metrics,
    }

    fn start(ttl: Duration, timeout: Duration, lookup: fn(String) -> Lookup) -> Tried {
        let metrics = Metrics::new(&[], &[]);
        Tried { resolver: Resolver::with(&options(ttl, timeout), metrics.clone(), lookup), metrics }
    }

    impl Tried {
        fn address(&self, name: &str) -> String {
            self.resolver.address(name).unwrap().to_string()
        }

        fn count(&self, name: &str) -> u64 {
            let text = self.metrics.encode(&Nothing);
            let line =
                text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ').map(str::to_owned));
            line.unwrap_or_else(|| panic!("there is no {name}")).parse().unwrap()
        }

        async fn reached(&self, name: &str, value: u64) {
            let reached = async {
                while self.count(name) < value {
                    tokio::task::yield_now().await;
                }
            };
            tokio::time::timeout(Duration::from_secs(20), reached).await.unwrap();
        }
    }

    const LOOKUPS: &str = "moriio_dns_reresolve_total";
    const MOVES: &str = "moriio_dns_ip_changed_total";
    const FAILURES: &str = "moriio_dns_lookup_failures_total";

    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn hosts_are_known_from_the_start_without_a_lookup() {
        let tried = start(LONG, LONG, |name| panic!("{name} was looked up"));
        assert_eq!(tried.address("decode-0"), "10.0.0.1");
        assert_eq!(tried.address("prefill-0"), "10.0.1.1");
        assert_eq!(tried.address("10.0.1.2"), "10.0.1.2");
        assert_eq!(tried.count(LOOKUPS), 0);
    }

    #[tokio::test]
    async fn a_host_that_moved_is_found_again_and_nobody_waits_for_it() {
        let tried =
            start(Duration::ZERO, LONG, |_| Box::pin(async { Ok(vec!["10.0.0.2".parse().unwrap()]) }));
        assert_eq!(tried.address("decode-0"), "10.0.0.1");
        tried.reached(MOVES, 1).await;
        assert_eq!(tried.address("decode-0"), "10.0.0.2");
    }

    #[tokio::test]
    async fn the_systems_resolver_knows_this_host() {
        let metrics = Metrics::new(&[], &[]);
        let resolver = Resolver::new(&options(LONG, LONG), metrics.clone());
        assert_eq!(resolver.address("localhost"), None);
        let tried = Tried { resolver, metrics };
        tried.reached(LOOKUPS, 1).await;
        let known = async {
            loop {
                match tried.resolver.address("localhost") {
                    Some(address) => return address,
                    None => tokio::task::yield_now().await,
                }
            }
        };
        assert!(tokio::time::timeout(Duration::from_secs(20), known).await.unwrap().is_loopback());
    }

    #[tokio::test]
    async fn a_name_server_that_does_not_answer_or_knows_nothing_counts_and_changes_nothing() {
        let hang: fn(String) -> Lookup = |_| Box::pin(std::future::pending());
        let empty: fn(String) -> Lookup = |_| Box::pin(async { Ok(Vec::new()) });
        let fails: fn(String) -> Lookup = |_| Box::pin(async { Err(io::Error::other("no")) });
        for lookup in [hang, empty, fails] {
            let tried = start(Duration::ZERO, Duration::from_millis(20), lookup);
            tried.address("decode-0");
            tried.reached(FAILURES, 1).await;
            assert_eq!(tried.address("decode-0"), "10.0.0.1");
            assert_eq!(tried.count(MOVES), 0);
        }
    }

    #[tokio::test]
    async fn many_requests_at_once_make_one_lookup() {
        let tried = start(Duration::ZERO, LONG, |_| Box::pin(std::future::pending()));
        for _ in 0..100 {
            tried.address("decode-0");
        }
        tried.reached(LOOKUPS, 1).await;
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert_eq!(tried.count(LOOKUPS), 1);
    }

    #[tokio::test]
    async fn a_request_that_is_cancelled_does_not_take_the_lookup_with_it() {
        let tried = start(Duration::ZERO, LONG, |_| {
            Box::pin(async {
                tokio::task::yield_now().await;
                Ok(vec!["10.0.0.2".parse().unwrap()])
            })
        });
        let resolver = tried.resolver.clone();
        let request = tokio::spawn(async move {
            resolver.address("decode-0");
            std::future::pending::<()>().await;
        });
        tried.reached(LOOKUPS, 1).await;
        request.abort();
        tried.reached(MOVES, 1).await;
    }

    #[test]
    fn outside_a_runtime_the_known_address_is_used() {
        thread_local!(static ASKED: Cell<bool> = const { Cell::new(false) });
        let tried = start(Duration::ZERO, LONG, |_| {
            ASKED.set(true);
            Box::pin(std::future::pending())
        });
        assert_eq!(tried.address("decode-0"), "10.0.0.1");
        assert!(!ASKED.get() && tried.count(LOOKUPS) == 0);
    }
}
