//! Which requests are disaggregated, answered here, redirected or passed through (spec/sidecar.md 2.1 and 12.2).

use std::borrow::Cow;

use http::{Method, Uri};

/// The API of an intercepted request: it decides how outputs are limited and where usage stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Api {
    /// `/v1/chat/completions`
    ChatCompletions,
    /// `/v1/completions`
    Completions,
    /// `/v1/messages` (Anthropic)
    Messages,
    /// `/v1/responses`
    Responses,
    /// `/inference/v1/generate` (vLLM, tokens in and out)
    VllmGenerate,
    /// `/generate` (SGLang's own)
    SglangGenerate,
}

impl Api {
    const ROUTES: [(&'static str, Self); 6] = [
        ("/v1/chat/completions", Self::ChatCompletions),
        ("/v1/completions", Self::Completions),
        ("/v1/messages", Self::Messages),
        ("/v1/responses", Self::Responses),
        ("/inference/v1/generate", Self::VllmGenerate),
        ("/generate", Self::SglangGenerate),
    ];

    /// The label in logs and metrics (spec/sidecar.md 12.2).
    pub fn label(self) -> &'static str {
        match self {
            Self::ChatCompletions => "chat_completions",
            Self::Completions => "completions",
            Self::Messages => "messages",
            Self::Responses => "responses",
            Self::VllmGenerate => "vllm_generate",
            Self::SglangGenerate => "sglang_generate",
        }
    }

    /// What the model is asked for, in the words of OpenTelemetry's GenAI conventions.
    pub fn operation(self) -> &'static str {
        match self {
            Self::ChatCompletions | Self::Messages | Self::Responses => "chat",
            Self::Completions | Self::VllmGenerate | Self::SglangGenerate => "text_completion",
        }
    }

    /// The same in metrics.
    pub fn metric(self) -> kvferry_metrics::Api {
        match self {
            Self::ChatCompletions => kvferry_metrics::Api::ChatCompletions,
            Self::Completions => kvferry_metrics::Api::Completions,
            Self::Messages => kvferry_metrics::Api::Messages,
            Self::Responses => kvferry_metrics::Api::Responses,
            Self::VllmGenerate => kvferry_metrics::Api::VllmGenerate,
            Self::SglangGenerate => kvferry_metrics::Api::SglangGenerate,
        }
    }

    /// Its path, clean.
    pub fn path(self) -> &'static str {
        let (path, _) =
            Self::ROUTES.iter().find(|(_, api)| *api == self).expect("every API has a row in ROUTES");
        path
    }
}

/// What to do with a request.
#[derive(Debug, PartialEq, Eq)]
pub enum Route {
    /// `GET` or `HEAD` `/health`: answered here.
    Health,
    /// A request that may be disaggregated; served under the API's clean path.
    Intercepted(Api),
    /// An unclean path that is not ours to serve: redirect to this location.
    Redirect(String),
    /// Everything else goes to the decode engine unread.
    Passthrough,
}

/// Decides.
pub fn classify(method: &Method, uri: &Uri) -> Route {
    let path = uri.path();
    if !path.starts_with('/') {
        // `*` of OPTIONS, or the authority of CONNECT.
        return Route::Passthrough;
    }
    let clean = clean(path);
    if (method == Method::GET || method == Method::HEAD) && clean == "/health" && path == clean {
        return Route::Health;
    }
    if method == Method::POST {
        let served = clean.strip_suffix('/').unwrap_or(&clean);
        if let Some((_, api)) = Api::ROUTES.iter().find(|(path, _)| *path == served) {
            return Route::Intercepted(*api);
        }
    }
    match clean {
        Cow::Borrowed(_) => Route::Passthrough,
        Cow::Owned(clean) if method == Method::CONNECT => {
            drop(clean);
            Route::Passthrough
        }
        Cow::Owned(clean) => match uri.query() {
            Some(query) => Route::Redirect(format!("{clean}?{query}")),
            None => Route::Redirect(clean),
        },
    }
}

/// The path without doubled slashes and dot segments; a trailing slash stays. Borrowed if it was clean.
fn clean(path: &str) -> Cow<'_, str> {
    let unclean = path.contains("//") || path.split('/').any(|segment| segment == "." || segment == "..");
    if !unclean {
        return Cow::Borrowed(path);
    }
    let mut segments: Vec<&str> = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => {
                segments.pop();
            }
            segment => segments.push(segment),
        }
    }
    let mut clean = String::with_capacity(path.len());
    for segment in &segments {
        clean.push('/');
        clean.push_str(segment);
    }
    if clean.is_empty() || path.ends_with('/') {
        clean.push('/');
    }
    Cow::Owned(clean)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(method: &str, target: &str) -> Route {
        classify(&method.parse().unwrap(), &target.parse().unwrap())
    }

    #[test]
    fn the_served_paths_are_intercepted_for_post_only() {
        for (path, api) in Api::ROUTES {
            assert_eq!(route("POST", path), Route::Intercepted(api));
            assert_eq!(api.path(), path);
            assert_eq!(route("POST", &format!("{path}/")), Route::Intercepted(api));
            assert_eq!(route("POST", &format!("/{path}?a=b")), Route::Intercepted(api));
            assert_eq!(route("POST", &format!("/x/..{path}")), Route::Intercepted(api));
            assert_eq!(route("GET", path), Route::Passthrough);
            assert_eq!(route("POST", &format!("{path}/render")), Route::Passthrough);
            assert_eq!(route("POST", &path.to_uppercase()), Route::Passthrough);
        }
    }

    #[test]
    fn everything_else_passes_and_unclean_paths_are_redirected() {
        for path in ["/v1/embeddings", "/v1/models", "/metrics", "/healthz", "/", "/a/b/", "/health/"] {
            assert_eq!(route("POST", path), Route::Passthrough, "{path}");
        }
        assert_eq!(route("GET", "/health"), Route::Health);
        assert_eq!(route("HEAD", "/health?x"), Route::Health);
        assert_eq!(route("POST", "/health"), Route::Passthrough);
        assert_eq!(route("OPTIONS", "*"), Route::Passthrough);
        for (path, clean) in [
            ("/v1//models?x=1;2", "/v1/models?x=1;2"),
            ("/a/./b/../c/", "/a/c/"),
            ("/..", "/"),
            ("//v1/chat/completions", "/v1/chat/completions"),
        ] {
            assert_eq!(route("GET", path), Route::Redirect(clean.to_owned()), "{path}");
        }
    }
}
