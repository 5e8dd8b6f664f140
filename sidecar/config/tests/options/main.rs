//! What operators may set and what it leads to, as tables: one line is one thing an operator may write.
#![expect(clippy::unwrap_used, reason = "a test may stop at what cannot be")]

mod destinations;
mod every_flag;
mod help;
mod moriio;
mod observability;
mod old_names;
mod operator;
mod precedence;
mod refusals;
mod shortcuts;
mod tls;
mod yaml;
