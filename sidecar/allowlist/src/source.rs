//! Where the Kubernetes client comes from.

use std::time::Duration;

use kube::{Client, Config};

use crate::trouble::chain;

/// How long a connection to the API server may take. It is on the cluster's own network; ten seconds are three lost
/// SYNs.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How the API server is found.
#[derive(Clone)]
pub enum ClientSource {
    /// As a pod in the cluster; else by `KUBECONFIG` or the default kubeconfig. Looked for again until it is found.
    Infer,
    /// A configuration from the caller.
    Config(Box<Config>),
    /// A client from the caller, used as it is.
    Client(Client),
}

impl ClientSource {
    /// A client, or in words why there is none and what to do.
    pub(crate) async fn client(&self) -> Result<Client, String> {
        let config = match self {
            Self::Client(client) => return Ok(client.clone()),
            Self::Config(config) => (**config).clone(),
            Self::Infer => infer().await?,
        };
        build(config)
    }
}

async fn infer() -> Result<Config, String> {
    let in_cluster = match Config::incluster() {
        Ok(config) => return Ok(config),
        Err(error) => chain(&error),
    };
    Config::from_kubeconfig(&kube::config::KubeConfigOptions::default()).await.map_err(|error| {
        format!(
            "there is no Kubernetes client configuration: mount the service account's token \
             (automountServiceAccountToken), or set KUBECONFIG (in the cluster: {in_cluster}; kubeconfig: {})",
            chain(&error)
        )
    })
}

fn build(mut config: Config) -> Result<Client, String> {
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    // The retries here wait differently and say what is wrong; two loops would multiply.
    config.default_retry = false;
    Client::try_from(config)
        .map_err(|error| format!("the Kubernetes client configuration cannot be used: {}", chain(&error)))
}

impl std::fmt::Debug for ClientSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // A configuration holds credentials.
        f.write_str(match self {
            Self::Infer => "Infer",
            Self::Config(_) => "Config",
            Self::Client(_) => "Client",
        })
    }
}
