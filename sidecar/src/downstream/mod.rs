//! The clients' side: connections, their limits, and what is written to them outside the ordinary response.

mod connection;
mod interim;
mod watch;

pub use connection::serve;
pub use interim::Interim;
pub use watch::Watchdog;
