//! What the sidecar and the scheduler must agree on, and nothing else: the names of the routing headers and the
//! form of the endpoints inside them. It stands apart so that neither binary depends on the other.

mod endpoint;
pub mod headers;

pub use endpoint::{Endpoint, EndpointError};
