//! What several parts read of a chat: [`request`], which members make its prompt, and [`reply`], what its answer says.

pub mod reply;
pub mod request;
