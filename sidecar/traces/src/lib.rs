//! One trace of both legs, exported as OpenTelemetry.
