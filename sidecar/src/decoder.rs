//! The watch on this pod's decode engines, for readiness that depends on them.
//!
//! Each is asked for its health again and again. That a connection opens would say too little: the kernel opens it for a
//! process that hangs.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use futures_util::future::join_all;
use http::header::HOST;
use http::{HeaderValue, Request, Uri};
use kvferry_contract::Endpoint;
use tokio::runtime;

use crate::upstream::{LegBody, Tally, Upstream};
use crate::worker::Settings;

/// Between two looks.
const PAUSE: Duration = Duration::from_secs(1);

/// How long one may take. A busy engine's front end is late at times; one that is later than this serves nobody.
const PATIENCE: Duration = Duration::from_secs(5);

/// What is known of the engines.
#[derive(Debug)]
pub struct Watch {
    /// Why they are not ready; `None` once all of them answer.
    trouble: Mutex<Option<String>>,
}

impl Watch {
    /// Looks at the engines of all ranks until the last reference is gone.
    ///
    /// # Errors
    /// The thread that looks, or its runtime, cannot be made.
    pub fn start(settings: &Settings) -> io::Result<Arc<Self>> {
        let watch = Arc::new(Self { trouble: Mutex::new(Some("it has not answered yet".to_owned())) });
        // Nothing is kept: whether a new client would be served is the question.
        let upstream = Upstream::new(0, PATIENCE, settings.leg_tls.decode.clone(), Tally::default());
        let engines: Vec<_> = settings.ranks.iter().map(|rank| Arc::clone(&rank.decoder)).collect();
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        let told = Arc::downgrade(&watch);
        thread::Builder::new().name("decoder".to_owned()).spawn(move || {
            while told.strong_count() > 0 {
                let looks = join_all(engines.iter().map(|engine| look(&upstream, engine)));
                let trouble = runtime.block_on(looks).into_iter().find_map(Result::err);
                let Some(watch) = told.upgrade() else { return };
                *watch.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
                drop(watch);
                thread::sleep(PAUSE);
            }
        })?;
        Ok(watch)
    }

    /// Why requests should not be sent here; `None` if every engine answers.
    pub fn trouble(&self) -> Option<String> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Whether an engine answers, and does not say itself that it is unwell. One that has no such route is well.
async fn look(upstream: &Upstream, engine: &Arc<Endpoint>) -> Result<(), String> {
    let asked = upstream.send(engine, || {
        let mut request = Request::new(LegBody::empty());
        *request.uri_mut() = Uri::from_static("/health");
        request.headers_mut().insert(HOST, HeaderValue::from_static("localhost"));
        request
    });
    let trouble = match tokio::time::timeout(PATIENCE, asked).await {
        Err(_) => format!("no answer to GET /health within {} s", PATIENCE.as_secs()),
        Ok(Err(how)) => how.to_string(),
        Ok(Ok(sent)) if sent.response.status().is_server_error() => {
            format!("it answers GET /health with {}", sent.response.status())
        }
        Ok(Ok(_)) => return Ok(()),
    };
    Err(format!("decode engine {engine}: {trouble}"))
}
