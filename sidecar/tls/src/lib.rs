//! TLS of the listener and of the legs.
