//! One window: the closed load on a side and its base, and what each process burnt for each request.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use tokio::task::JoinHandle;

use super::chat::TURNS;
use super::fleet::Sidecar;
use super::rounds::Pair;
use crate::load::{self, Worker};
use crate::num::float;
use crate::proxy::measure::Window;
use crate::proxy::process::http_client;
use crate::{Error, Result};

/// Load before each window: other sidecars had the caches and the engines to themselves.
const LEAD_IN: Duration = Duration::from_millis(100);

/// How often metrics are scraped: ten times as often as a Prometheus does that is set up eagerly.
const SCRAPE_EVERY: Duration = Duration::from_secs(1);

/// CPU time for each request of a side and of its base, µs.
///
/// # Errors
/// When an answer was wrong or missing, or a process is gone.
pub(super) async fn pair(side: &Sidecar, length: Duration) -> Result<Pair> {
    load::closed(warm(side).await?, LEAD_IN, &mut |_| ()).await;
    let workers = warm(side).await?;
    let scraper = side.metrics.map(Scraper::start).transpose()?;
    let mut windows = [Window::default(), Window::default()];
    let tally = load::closed(workers, length, &mut |phase| {
        for (window, pid) in windows.iter_mut().zip([side.base_pid, side.pid]) {
            window.probe(phase, Some(pid));
        }
    })
    .await;
    if let Some(scraper) = scraper {
        scraper.stop()?;
    }
    let summary = tally.summary();
    if let Some(error) = summary.first_error {
        return Err(format!("{} or its base: {error} ({} errors)", side.side.name, summary.errors).into());
    }
    let requests = float((summary.requests * TURNS).max(1));
    let us = |window: Window| {
        let cpu_s = window.lengths()?.1.ok_or("a sidecar's CPU time is known")?;
        Ok::<_, Error>(cpu_s * 1e6 / requests)
    };
    let [base, side] = windows;
    Ok(Pair { base: us(base)?, side: us(side)? })
}

/// Every client, connected, with a chat behind it.
async fn warm(sidecar: &Sidecar) -> Result<Vec<Worker>> {
    let mut workers = Vec::with_capacity(sidecar.jobs.len());
    for job in &sidecar.jobs {
        workers.extend(load::warm(job, 1).await?);
    }
    Ok(workers)
}

/// Scrapes the metrics of a sidecar while a window is open.
struct Scraper {
    task: JoinHandle<()>,
    /// The last answer, or what was wrong with it.
    last: Rc<RefCell<Result<usize>>>,
}

impl Scraper {
    /// Begins half an interval from now, so that a window of so many seconds holds as many scrapes.
    fn start(address: SocketAddr) -> Result<Self> {
        let (client, url) = (http_client()?, format!("http://{address}/metrics"));
        let last = Rc::new(RefCell::new(Err("the window was too short for a scrape".into())));
        let told = Rc::clone(&last);
        let task = tokio::task::spawn_local(async move {
            tokio::time::sleep(SCRAPE_EVERY / 2).await;
            loop {
                let scraped = scrape(&client, &url).await;
                *told.borrow_mut() = scraped;
                tokio::time::sleep(SCRAPE_EVERY).await;
            }
        });
        Ok(Self { task, last })
    }

    fn stop(self) -> Result<()> {
        self.task.abort();
        let scraped = self.last.replace(Ok(0)).map_err(|error| format!("metrics: {error}"))?;
        if scraped == 0 { Err("metrics: an empty answer".into()) } else { Ok(()) }
    }
}

async fn scrape(client: &reqwest::Client, url: &str) -> Result<usize> {
    Ok(client.get(url).send().await?.error_for_status()?.bytes().await?.len())
}
