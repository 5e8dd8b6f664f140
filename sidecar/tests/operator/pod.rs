//! A sidecar process with its operator's port open, and two engines.

use std::net::SocketAddr;

use crate::child::{Process, empty, engine};
use crate::common::{Answer, Ask, reserve_port};
use crate::scrape::Scrape;
use kvferry_emulator::Emulator;
use serde_json::Value;

pub(crate) struct Pod {
    pub(crate) prefill: Emulator,
    pub(crate) decode: Emulator,
    pub(crate) process: Process,
    pub(crate) admin: SocketAddr,
}

impl Pod {
    pub(crate) async fn start(flags: &[&str]) -> Self {
        Self::start_with(&[], flags).await
    }

    pub(crate) async fn start_with(variables: &[(&str, &str)], flags: &[&str]) -> Self {
        Self::between([engine().await, engine().await], variables, flags).await
    }

    /// With these engines, for prefill and for decode.
    pub(crate) async fn between(
        [prefill, decode]: [Emulator; 2],
        variables: &[(&str, &str)],
        flags: &[&str],
    ) -> Self {
        let ((port, _one), (admin, _two)) = (reserve_port(), reserve_port());
        let usual = [
            "--secure-serving=false".to_owned(),
            format!("--model-server-port={}", decode.addr().port()),
            format!("--metrics-port={admin}"),
        ];
        let all: Vec<&str> = usual.iter().map(String::as_str).chain(flags.iter().copied()).collect();
        let process = Process::start_as(port, variables, &all).await;
        Self { prefill, decode, process, admin: ([127, 0, 0, 1], admin).into() }
    }

    /// Where clients go.
    pub(crate) fn address(&self) -> SocketAddr {
        self.process.address
    }

    /// A request that is to be disaggregated.
    pub(crate) fn ask(&self, path: &str, body: impl Into<Vec<u8>>) -> Ask {
        Ask::post(path, body).prefill(&self.prefill.host_port())
    }

    /// What the operator's port says.
    pub(crate) async fn get(&self, path: &str) -> Answer {
        Ask::get(path).send(self.admin).await
    }

    pub(crate) async fn scrape(&self) -> Scrape {
        Scrape::of(&self.get("/metrics").await.ok().text())
    }

    /// Ends a test: nothing may be left, in the engines or in the account. Returns the log.
    pub(crate) async fn end(self) -> Vec<Value> {
        empty([&self.prefill, &self.decode]).await;
        self.idle().await;
        self.process.end().await
    }

    /// Waits until the metrics tell of nothing that is under way.
    pub(crate) async fn idle(&self) {
        let mut last = Scrape::default();
        for _ in 0..1000 {
            last = self.scrape().await;
            if last.under_way() == 0.0 {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        panic!("still under way: {last:?}");
    }
}
