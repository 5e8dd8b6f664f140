//! Names that were removed or replaced over the years and still stand in charts and scripts.

use crate::flag::{Flag, Group};

pub(crate) const VLLM_PORT: &str = "vllm-port";
pub(crate) const CONNECTOR: &str = "connector";
pub(crate) const SECURE_PROXY: &str = "secure-proxy";
pub(crate) const PREFILLER_USE_TLS: &str = "prefiller-use-tls";
pub(crate) const DECODER_USE_TLS: &str = "decoder-use-tls";
pub(crate) const PREFILLER_SKIP_VERIFY: &str = "prefiller-tls-insecure-skip-verify";
pub(crate) const DECODER_SKIP_VERIFY: &str = "decoder-tls-insecure-skip-verify";
pub(crate) const POOL_NAMESPACE: &str = "inference-pool-namespace";
pub(crate) const POOL_NAME: &str = "inference-pool-name";

pub(crate) const DEPRECATED: Group = Group {
    heading: "Deprecated",
    flags: &[
        Flag::port(VLLM_PORT, "", "Port of the decode engine").instead("--model-server-port"),
        Flag::text(CONNECTOR, "NAME", "", "How the engines hand KV cache over").instead("--kv-connector"),
        Flag::bool(SECURE_PROXY, true, "Serve TLS on the listener").instead("--secure-serving"),
        Flag::bool(PREFILLER_USE_TLS, false, "Dial prefill engines with https")
            .instead("--enable-tls=prefiller"),
        Flag::bool(DECODER_USE_TLS, false, "Dial the decode engine with https")
            .instead("--enable-tls=decoder"),
        Flag::bool(PREFILLER_SKIP_VERIFY, false, "Do not verify prefill engines' certificates")
            .instead("--tls-insecure-skip-verify=prefiller"),
        Flag::bool(DECODER_SKIP_VERIFY, false, "Do not verify the decode engine's certificate")
            .instead("--tls-insecure-skip-verify=decoder"),
        Flag::text(POOL_NAMESPACE, "NAMESPACE", "", "Namespace of the InferencePool")
            .env("INFERENCE_POOL_NAMESPACE")
            .instead("--inference-pool=namespace/name or INFERENCE_POOL"),
        Flag::text(POOL_NAME, "NAME", "", "Name of the InferencePool")
            .env("INFERENCE_POOL_NAME")
            .instead("--inference-pool=namespace/name or INFERENCE_POOL"),
    ],
};
