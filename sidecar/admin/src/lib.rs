//! The operator's port: metrics, readiness, what is in flight, log level.
