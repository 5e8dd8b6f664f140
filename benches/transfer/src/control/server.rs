//! The side that serves. It never loads a library and never touches memory of a run itself: workers do, which end with
//! their session, so that nothing a session does outlives it.

use std::io::{BufReader, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, TryLockError};
use std::thread;
use std::time::Duration;

use kvferry_bench_common::Result;
use serde_json::{Value, to_value};

use super::hello::{self, Secret, Side};
use super::{HELLO_LIMIT, MAX_WORKERS, Reply, SILENCE_LIMIT, Wish};
use crate::asks::Asks;
use crate::child::ChildWorker;
use crate::line;
use crate::preflight;
use crate::programs::Programs;
use crate::protocol::{Answer, Ask};

/// Connections that have not proved themselves yet; more are closed at once.
const MAX_STRANGERS: usize = 8;

/// The longest that a question may take: reading a terabyte at one GB/s would take longer, and nobody waits for it.
const LONGEST_ANSWER: Duration = Duration::from_secs(600);

/// How a server is set up.
#[derive(Debug, Clone)]
pub struct Serving {
    /// The most bytes of all workers of a session.
    pub max_bytes: u64,
    /// Whom it talks to.
    pub secret: Option<Secret>,
    /// How workers are started.
    pub programs: Programs,
}

/// Listens, and says where.
///
/// # Errors
/// When it would serve strangers of other hosts without a secret, or cannot listen.
pub fn listen(address: SocketAddr, serving: &Serving) -> Result<TcpListener> {
    if !address.ip().is_loopback() && serving.secret.is_none() {
        return Err(format!(
            "--serve {address} would let anybody who reaches it use this host's memory and network; give both sides \
             the same --secret-file, or serve on 127.0.0.1"
        )
        .into());
    }
    TcpListener::bind(address).map_err(|error| format!("--serve {address}: {error}").into())
}

/// Serves until the process ends.
pub fn serve(listener: &TcpListener, serving: &Serving) {
    let session = Arc::new(Mutex::new(()));
    let strangers = Arc::new(AtomicUsize::new(0));
    for stream in listener.incoming() {
        let stream = match stream {
            Ok(stream) => stream,
            Err(error) => {
                eprintln!("kvferry-bench: accepting: {error}");
                // Out of descriptors, most likely; without a pause this loop would be the load.
                thread::sleep(Duration::from_millis(250));
                continue;
            }
        };
        if strangers.fetch_add(1, Ordering::AcqRel) >= MAX_STRANGERS {
            strangers.fetch_sub(1, Ordering::AcqRel);
            continue;
        }
        let (session, strangers, serving) = (Arc::clone(&session), Arc::clone(&strangers), serving.clone());
        thread::spawn(move || {
            let peer = stream.peer_addr().map_or_else(|_| "somebody".into(), |peer| peer.to_string());
            let met = meet(&stream, &serving);
            strangers.fetch_sub(1, Ordering::AcqRel);
            let ended = met.and_then(|()| match session.try_lock() {
                Ok(_one) => Session::new(&serving, stream.local_addr()?.ip()).run(&stream),
                Err(TryLockError::Poisoned(_) | TryLockError::WouldBlock) => {
                    let words = "another session runs here; try again when it has ended";
                    line::write(&mut &stream, &Reply::Error(words.into()))
                }
            });
            if let Err(error) = ended {
                eprintln!("kvferry-bench: session of {peer}: {error}");
            }
        });
    }
}

fn meet(stream: &TcpStream, serving: &Serving) -> Result<()> {
    stream.set_read_timeout(Some(HELLO_LIMIT))?;
    stream.set_write_timeout(Some(HELLO_LIMIT))?;
    stream.set_nodelay(true)?;
    hello::meet(
        Side::Server,
        &mut BufReader::with_capacity(1, stream),
        &mut &*stream,
        serving.secret.as_ref(),
    )
}

struct Session<'a> {
    serving: &'a Serving,
    host: IpAddr,
    workers: Vec<ChildWorker>,
    bytes: u64,
}

impl<'a> Session<'a> {
    fn new(serving: &'a Serving, host: IpAddr) -> Self {
        Self { serving, host, workers: Vec::new(), bytes: 0 }
    }

    fn run(mut self, stream: &TcpStream) -> Result<()> {
        stream.set_read_timeout(Some(SILENCE_LIMIT))?;
        let mut wishes = BufReader::new(stream);
        let mut replies = stream;
        line::write(&mut replies, &Reply::Ok(Value::Null))?;
        while let Some(wish) = line::read::<Wish>(&mut wishes, line::MAX_LINE)? {
            if wish == Wish::Bye {
                self.workers.clear();
                line::write(&mut replies, &Reply::Ok(Value::Null))?;
                return Ok(());
            }
            let reply = self.grant(wish).unwrap_or_else(|error| Reply::Error(error.to_string()));
            line::write(&mut replies, &reply)?;
            replies.flush()?;
        }
        Ok(())
    }

    fn grant(&mut self, wish: Wish) -> Result<Reply> {
        match wish {
            Wish::Start { .. } if self.workers.len() == MAX_WORKERS => {
                Err(format!("a session has at most {MAX_WORKERS} workers").into())
            }
            Wish::Start { tls } => {
                if tls.as_deref().is_some_and(|tls| !super::is_tls(tls)) {
                    return Err("transports are words with commas between them".into());
                }
                let name = format!("worker {} at {}", self.workers.len(), self.host);
                self.workers
                    .push(ChildWorker::start(name, &mut self.serving.programs.worker(tls.as_deref())?)?);
                Ok(Reply::Ok(to_value(self.workers.len() - 1)?))
            }
            Wish::Ask { worker, ask, within_s } => {
                let ask = self.allowed(*ask)?;
                let within = Duration::from_secs(within_s).min(LONGEST_ANSWER);
                let worker = self.workers.get_mut(worker).ok_or("there is no such worker")?;
                worker.send(&ask)?;
                worker.receive(within)
            }
            Wish::Measure(errand) => {
                let found = preflight::run_errand(&errand, self.serving)?;
                Ok(Answer::Ok(to_value(found)?))
            }
            Wish::Bye => unreachable!("the session has ended"),
        }
    }

    /// The question as it may be asked: only what the driven side of a run needs, within this server's memory, on the
    /// address that the session came in by.
    fn allowed(&mut self, ask: Ask) -> Result<Ask> {
        match ask {
            Ask::Open(mut setup) => {
                let bytes =
                    self.bytes.checked_add(setup.bytes).filter(|bytes| *bytes <= self.serving.max_bytes);
                let Some(bytes) = bytes else {
                    let (asked, most) = (setup.bytes, self.serving.max_bytes);
                    return Err(
                        format!("{asked} bytes more are beyond this server's --max-bytes {most}").into()
                    );
                };
                self.bytes = bytes;
                setup.host = Some(self.host);
                setup.secret = self.serving.secret.as_ref().map(|secret| secret.words().to_owned());
                Ok(Ask::Open(setup))
            }
            Ask::Verify { work, seed, shift, .. } => Ok(Ask::Verify { work, seed, shift, pieces: None }),
            Ask::Fill { .. } | Ask::Offer | Ask::Cpu => Ok(ask),
            Ask::Connect { .. } | Ask::Prepare { .. } | Ask::Run { .. } | Ask::Flip { .. } => {
                Err("a server's workers are driven, they do not drive".into())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{Setup, Shift};
    use crate::work::tests::work;

    fn serving(max_bytes: u64) -> Serving {
        let secret = Some(Secret::new("0123456789abcdef").unwrap());
        Serving { max_bytes, secret, programs: Programs::default() }
    }

    fn open(bytes: u64) -> Ask {
        Ask::Open(Setup {
            backend: "tcp".into(),
            transports: None,
            threads: 1,
            streams: 1,
            busy: false,
            bytes,
            host: Some("10.0.0.1".parse().unwrap()),
            secret: None,
        })
    }

    #[test]
    fn memory_of_all_workers_together_is_bounded() {
        let serving = serving(100);
        let mut session = Session::new(&serving, "127.0.0.1".parse().unwrap());
        assert!(session.allowed(open(60)).is_ok());
        assert!(session.allowed(open(41)).unwrap_err().to_string().contains("--max-bytes 100"));
        assert!(session.allowed(open(u64::MAX)).is_err());
        assert!(session.allowed(open(40)).is_ok());
    }

    #[test]
    fn where_to_listen_and_the_secret_are_the_servers_to_say() {
        let serving = serving(100);
        let mut session = Session::new(&serving, "127.0.0.1".parse().unwrap());
        let Ask::Open(setup) = session.allowed(open(1)).unwrap() else { panic!("another question") };
        assert_eq!(setup.host, Some("127.0.0.1".parse().unwrap()));
        assert_eq!(setup.secret.as_deref(), Some("0123456789abcdef"));
    }

    #[test]
    fn nobody_drives_a_servers_worker_or_names_it_a_file() {
        let serving = serving(100);
        let mut session = Session::new(&serving, "127.0.0.1".parse().unwrap());
        let shift = Shift::default();
        for ask in [
            Ask::Connect { offers: vec![] },
            Ask::Run { window_ms: 1 },
            Ask::Flip { at: 0 },
            Ask::Prepare { work: work(), shift, pieces: None },
        ] {
            assert!(session.allowed(ask).is_err());
        }
        let verify = Ask::Verify { work: work(), seed: 1, shift, pieces: Some("/etc/passwd".into()) };
        let Ask::Verify { pieces, .. } = session.allowed(verify).unwrap() else { panic!("another question") };
        assert_eq!(pieces, None);
    }

    #[test]
    fn transports_are_words_and_nothing_else() {
        assert!(super::super::is_tls("rc_mlx5,cuda_copy,^tcp"));
        for bad in ["", "tcp;rm", "tcp\0", "tcp tcp", &"x".repeat(300)] {
            assert!(!super::super::is_tls(bad), "{bad:?}");
        }
    }

    #[test]
    fn without_a_secret_only_this_host_is_served() {
        let open = Serving { secret: None, ..serving(1) };
        let refused = listen("0.0.0.0:0".parse().unwrap(), &open).unwrap_err().to_string();
        assert!(refused.contains("--secret-file"), "{refused}");
        assert!(listen("127.0.0.1:0".parse().unwrap(), &open).is_ok());
    }
}
