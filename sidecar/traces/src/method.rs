//! Methods as span names and attributes have them. Clients make up methods of any length, and a name that anybody can
//! make up is of no use to a query: what the standard does not know is `_OTHER`, as OpenTelemetry has it.

use http::Method;

/// The method.
pub(crate) fn method(method: &Method) -> &'static str {
    names(method).0
}

/// The name of a request to an engine with this method.
pub(crate) fn client_name(method: &Method) -> &'static str {
    names(method).1
}

fn names(method: &Method) -> (&'static str, &'static str) {
    match method.as_str() {
        "POST" => ("POST", "HTTP POST"),
        "GET" => ("GET", "HTTP GET"),
        "HEAD" => ("HEAD", "HTTP HEAD"),
        "PUT" => ("PUT", "HTTP PUT"),
        "PATCH" => ("PATCH", "HTTP PATCH"),
        "DELETE" => ("DELETE", "HTTP DELETE"),
        "OPTIONS" => ("OPTIONS", "HTTP OPTIONS"),
        "TRACE" => ("TRACE", "HTTP TRACE"),
        "CONNECT" => ("CONNECT", "HTTP CONNECT"),
        _ => ("_OTHER", "HTTP"),
    }
}
