//! The flags of the handoff protocols.

use std::time::Duration;

use clap::Args;
use kvferry_emulator::{Config, Connector, SharedStore};

use super::duration;

/// Ports and limits beyond the KV port.
#[derive(Debug, Args)]
pub(crate) struct HandoffArgs {
    /// Port of the bootstrap server (sglang, mooncake); 0 picks a free one.
    #[arg(long, default_value_t = 0)]
    bootstrap_port: u16,
    /// Port that serves KV under request ids (offloading); 0 picks a free one.
    #[arg(long, default_value_t = 0)]
    p2p_port: u16,
    /// Port on which prefill engines deliver KV (MoRI-IO); 0 picks a free one.
    #[arg(long, default_value_t = 0)]
    notify_port: u16,
    /// The one protocol to take part in; without it, whichever a request's fields name.
    #[arg(long, value_parser = connector)]
    connector: Option<Connector>,
    /// Data-parallel ranks that the bootstrap server lists.
    #[arg(long, default_value_t = 1)]
    dp_size: u32,
    /// A folder shared with other engines: prefill engines leave their prompts' blocks there.
    #[arg(long, value_parser = store)]
    shared_store: Option<SharedStore>,
    /// A folder shared with other engines: encoders leave their outputs there.
    #[arg(long, value_parser = store)]
    encoder_store: Option<SharedStore>,
    /// How long a leg waits for its other leg.
    #[arg(long, default_value = "30s", value_parser = duration)]
    rendezvous_timeout: Duration,
    /// Keep the KV of each answer this long for the conversation's next turn; without it, not at all.
    #[arg(long, value_parser = duration)]
    decoder_kv_ttl: Option<Duration>,
    /// How long an answered mooncake prefill waits for its reader.
    #[arg(long, default_value = "480s", value_parser = duration)]
    abort_timeout: Duration,
}

impl HandoffArgs {
    /// `config` with these flags.
    pub(crate) fn apply(&self, config: Config) -> Config {
        Config {
            bootstrap_port: self.bootstrap_port,
            p2p_port: self.p2p_port,
            notify_port: self.notify_port,
            connector: self.connector,
            dp_size: self.dp_size,
            shared_store: self.shared_store.clone(),
            encoder_store: self.encoder_store.clone(),
            rendezvous_timeout: self.rendezvous_timeout,
            abort_timeout: self.abort_timeout,
            decoder_kv_ttl: self.decoder_kv_ttl,
            ..config
        }
    }
}

fn store(folder: &str) -> Result<SharedStore, String> {
    SharedStore::in_folder(folder).map_err(|error| format!("cannot make the folder: {error}"))
}

fn connector(text: &str) -> Result<Connector, String> {
    Connector::ALL.into_iter().find(|connector| connector.as_str() == text).ok_or_else(|| {
        let known: Vec<_> = Connector::ALL.map(Connector::as_str).into();
        format!("'{text}' is no protocol; known are {}", known.join(", "))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connector_is_named_as_errors_name_it() {
        for known in Connector::ALL {
            assert_eq!(connector(&known.to_string()), Ok(known));
        }
        assert!(connector("nixlv2").unwrap_err().contains("nixl-push"));
    }
}
