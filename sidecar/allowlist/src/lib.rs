//! Which hosts and ports a routing header may name.
