//! How engines are met: TLS of the legs, for each stage of a request.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::deprecated::{DECODER_SKIP_VERIFY, DECODER_USE_TLS, PREFILLER_SKIP_VERIFY, PREFILLER_USE_TLS};
use crate::choice::{Choice, choice};
use crate::exit::Invalid;
use crate::flag::{Flag, Group};
use crate::values::{Source, Values};

const ENABLE_TLS: &str = "enable-tls";
const SKIP_VERIFY: &str = "tls-insecure-skip-verify";
const CA_PATH: &str = "leg-ca-path";
const PREFILLER_CERT: &str = "prefiller-client-cert-path";
const DECODER_CERT: &str = "decoder-client-cert-path";
const ENCODER_CERT: &str = "encoder-client-cert-path";

pub(crate) const LEGS: Group = Group {
    heading: "TLS of the legs",
    flags: &[
        Flag::list(ENABLE_TLS, "STAGES", "Engines dialled with https: any of prefiller, decoder, encoder"),
        Flag::list(SKIP_VERIFY, "STAGES", "Engines whose certificate is not verified: any of the same"),
        Flag::text(CA_PATH, "FILE", "", "PEM file of authorities to trust beside the system's"),
        Flag::text(
            PREFILLER_CERT,
            "DIR",
            "",
            "Directory with tls.crt and tls.key: the certificate shown to prefill engines",
        ),
        Flag::text(DECODER_CERT, "DIR", "", "The same for the decode engine"),
        Flag::text(ENCODER_CERT, "DIR", "", "The same for encoders"),
    ],
};

choice! {
    /// Whom a leg goes to.
    pub enum Stage {
        /// A prefill engine.
        Prefiller = "prefiller",
        /// The decode engine in this pod.
        Decoder = "decoder",
        /// An encoder.
        Encoder = "encoder",
    }
}

/// How engines are met.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Legs {
    /// Dialled with https.
    pub enable_tls: BTreeSet<Stage>,
    /// Their certificate is not verified.
    pub tls_insecure_skip_verify: BTreeSet<Stage>,
    /// PEM file of authorities to trust beside the system's.
    pub leg_ca_path: Option<PathBuf>,
    /// Directory with `tls.crt` and `tls.key` to show to prefill engines. Only where they are dialled with https.
    pub prefiller_client_cert_path: Option<PathBuf>,
    /// The same for the decode engine.
    pub decoder_client_cert_path: Option<PathBuf>,
    /// The same for encoders.
    pub encoder_client_cert_path: Option<PathBuf>,
}

impl Legs {
    /// Directory with the certificate to show at a stage.
    pub fn client_cert_path(&self, stage: Stage) -> Option<&Path> {
        match stage {
            Stage::Prefiller => self.prefiller_client_cert_path.as_deref(),
            Stage::Decoder => self.decoder_client_cert_path.as_deref(),
            Stage::Encoder => self.encoder_client_cert_path.as_deref(),
        }
    }

    pub(crate) fn read(values: &Values) -> Result<Self, Invalid> {
        let legs = Self {
            enable_tls: stages(
                values,
                ENABLE_TLS,
                [(PREFILLER_USE_TLS, Stage::Prefiller), (DECODER_USE_TLS, Stage::Decoder)],
            )?,
            tls_insecure_skip_verify: stages(
                values,
                SKIP_VERIFY,
                [(PREFILLER_SKIP_VERIFY, Stage::Prefiller), (DECODER_SKIP_VERIFY, Stage::Decoder)],
            )?,
            leg_ca_path: values.path(CA_PATH),
            prefiller_client_cert_path: values.path(PREFILLER_CERT),
            decoder_client_cert_path: values.path(DECODER_CERT),
            encoder_client_cert_path: values.path(ENCODER_CERT),
        };
        for (flag, stage) in [
            (PREFILLER_CERT, Stage::Prefiller),
            (DECODER_CERT, Stage::Decoder),
            (ENCODER_CERT, Stage::Encoder),
        ] {
            if legs.client_cert_path(stage).is_some() && !legs.enable_tls.contains(&stage) {
                return Err(Invalid::new(format!(
                    "--{flag} requires --{ENABLE_TLS}={stage}: without TLS no certificate is shown"
                )));
            }
        }
        Ok(legs)
    }
}

/// The stages of a list, and those of the booleans that stood in its place once. A boolean in YAML says nothing where
/// the list is on the command line, as no key outranks a flag.
fn stages(values: &Values, list: &str, booleans: [(&str, Stage); 2]) -> Result<BTreeSet<Stage>, Invalid> {
    let mut stages = BTreeSet::new();
    for item in values.list(list) {
        stages.insert(Stage::of_word(item).ok_or_else(|| {
            Invalid::new(format!("--{list} stages must be one of: {} (got {item:?})", Stage::words()))
        })?);
    }
    let list_is_flag = values.source(list) == Some(Source::CommandLine);
    for (name, stage) in booleans {
        let outranked = list_is_flag && values.source(name) != Some(Source::CommandLine);
        if values.bool(name)? && !outranked {
            stages.insert(stage);
        }
    }
    Ok(stages)
}
