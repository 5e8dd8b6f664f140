//! Who may talk to whom: TLS of the listener and of the legs, and the targets that routing headers may name, all of it
//! through a running sidecar.

#![expect(clippy::unwrap_used, reason = "a test may stop at what cannot be")]

#[path = "../common/mod.rs"]
mod common;

#[path = "../process/child.rs"]
#[expect(dead_code, reason = "each test program uses its part of this")]
mod child;

#[path = "../../allowlist/tests/api_server/double/mod.rs"]
#[expect(dead_code, reason = "each test program uses its part of this")]
mod double;

#[path = "../../tls/tests/tls/common.rs"]
#[expect(dead_code, reason = "each test program uses its part of this")]
mod pki;

mod client_certificates;
mod forged;
mod front;
mod leg_trust;
mod legs;
mod listener;
mod pool;
mod reload;
mod targets;
mod visitor;
