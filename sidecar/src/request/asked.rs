//! What a client asks for, as connectors see it.

use std::sync::Arc;

use http::{HeaderMap, HeaderValue};
use kvferry_contract::Endpoint;
use kvferry_splice::Edits;

use super::intake::Intake;
use super::route::Api;
use crate::connector::Outgoing;

/// One intercepted request, read and cleaned.
#[derive(Debug)]
pub struct Asked {
    /// The client's API.
    pub api: Api,
    /// The client's body.
    pub intake: Intake,
    /// The client's headers, cleaned (see `request::headers`): what both legs carry.
    pub headers: HeaderMap,
    /// The id that both legs carry.
    pub id: HeaderValue,
    /// Another engine whose cache may hold a part of the prompt.
    pub kv_source: Option<Arc<Endpoint>>,
    /// The port on which the request arrived: with data parallel ranks, which of them it is for.
    pub port: u16,
}

impl Asked {
    /// The client's body with `edits`, under the client's headers.
    #[expect(clippy::needless_pass_by_value, reason = "edits are made on the spot, for this body alone")]
    pub fn edit(&self, edits: Edits<'_>) -> Outgoing {
        edits.apply(&self.intake.document, &self.intake.body).into()
    }
}
