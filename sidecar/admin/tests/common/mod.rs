//! A source whose answers a test sets, and clients that speak plain HTTP to the port, well or badly.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kvferry_admin::{Acceptor, Admin, Condition, Exposition, InFlight, Readiness, Request, Source};

/// Longest a client waits for an answer. A test that passes never waits so long.
const PATIENCE: Duration = Duration::from_secs(30);

/// Says what it was told to.
pub(crate) struct Says {
    pub(crate) readiness: Mutex<Readiness>,
    pub(crate) broken: Mutex<Option<String>>,
    pub(crate) total: usize,
    pub(crate) metrics: String,
    pub(crate) level: Mutex<String>,
}

impl Default for Says {
    fn default() -> Self {
        let readiness = Readiness {
            listening: true,
            draining: false,
            allowlist: Condition::NotRequired,
            decoder: Condition::Met,
        };
        Self {
            readiness: Mutex::new(readiness),
            broken: Mutex::new(None),
            total: 2,
            metrics: "# EOF\n".to_owned(),
            level: Mutex::new("info".to_owned()),
        }
    }
}

impl Source for Says {
    fn metrics(&self) -> Exposition {
        Exposition { content_type: "application/openmetrics-text", text: self.metrics.clone() }
    }

    fn readiness(&self) -> Readiness {
        self.readiness.lock().unwrap().clone()
    }

    fn broken(&self) -> Option<String> {
        self.broken.lock().unwrap().clone()
    }

    fn in_flight(&self, most: usize) -> InFlight {
        let request = |number: usize| Request {
            id: format!("r-{number}"),
            api: "chat_completions",
            stage: "decode",
            since: Duration::from_micros(1_234_567),
            prefill_target: number.is_multiple_of(2).then(|| "10.0.0.1:8000".to_owned()),
            bytes_in: 10,
            bytes_out: u64::MAX,
        };
        InFlight { total: self.total, requests: (0..self.total.min(most)).map(request).collect() }
    }

    fn log_level(&self) -> String {
        self.level.lock().unwrap().clone()
    }

    fn set_log_level(&self, level: &str) -> Result<(), String> {
        if ["error", "info", "debug", "info,proxy=debug"].contains(&level) {
            level.clone_into(&mut self.level.lock().unwrap());
            Ok(())
        } else {
            Err(format!("{level:?} is no log level"))
        }
    }
}

/// A port on the loopback interface that serves `source`.
pub(crate) fn start(source: Says, acceptor: Option<Arc<dyn Acceptor>>) -> (Admin, Arc<Says>) {
    let source = Arc::new(source);
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let admin = Admin::start(address, Arc::<Says>::clone(&source), acceptor).unwrap();
    (admin, source)
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    /// All that comes from a connection until it ends.
    pub(crate) fn read(stream: &mut TcpStream) -> Self {
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text:?}"));
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Self { status, head: head.to_ascii_lowercase(), body: body.to_owned() }
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }
}

/// A connection on which nothing was said yet.
pub(crate) fn connect(admin: &Admin) -> TcpStream {
    let stream = TcpStream::connect(admin.address()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Sends a request and takes its answer.
pub(crate) fn ask(admin: &Admin, method: &str, target: &str, body: &str) -> Answer {
    let mut stream = connect(admin);
    let length = body.len();
    write!(stream, "{method} {target} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {length}\r\n\r\n{body}")
        .unwrap();
    Answer::read(&mut stream)
}

pub(crate) fn get(admin: &Admin, target: &str) -> Answer {
    ask(admin, "GET", target, "")
}
