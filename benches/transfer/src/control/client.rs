//! The side that drives: a session with a server, and its workers there as if they were here.

use std::io::BufReader;
use std::net::{IpAddr, TcpStream, ToSocketAddrs as _};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use kvferry_bench_common::Result;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::hello::{self, Secret, Side};
use super::{HELLO_LIMIT, Reply, Wish};
use crate::asks::{Asks, LOOK_LIMIT};
use crate::line;
use crate::protocol::{Answer, Ask};

/// How long a server may be busy with another session before this gives up.
const BUSY_LIMIT: Duration = Duration::from_secs(15);

/// How long a server may take longer than what it was asked to do: its answer is on its way.
const ON_ITS_WAY: Duration = Duration::from_secs(10);

/// A session. Clones are the same one.
#[derive(Debug, Clone)]
pub struct Link {
    /// As the user wrote it.
    pub address: String,
    /// Which of this host's addresses leads there.
    pub from: IpAddr,
    stream: Arc<Mutex<BufReader<TcpStream>>>,
}

impl Link {
    /// Begins a session, as soon as the server is free.
    ///
    /// # Errors
    /// When nobody listens there, it is no server of this version, it does not know the secret, or it stays busy.
    pub fn open(address: &str, secret: Option<&Secret>) -> Result<Self> {
        let patience = Instant::now() + BUSY_LIMIT;
        loop {
            let link = Self::meet(address, secret).map_err(|error| format!("{address}: {error}"))?;
            let welcome = link.lock().receive(HELLO_LIMIT)?;
            match welcome {
                Reply::Ok(_) => return Ok(link),
                Reply::Error(_) if Instant::now() < patience => thread::sleep(Duration::from_millis(200)),
                Reply::Error(error) => return Err(format!("{address}: {error}").into()),
            }
        }
    }

    fn meet(address: &str, secret: Option<&Secret>) -> Result<Self> {
        let mut last = format!("{address:?} names no address; write HOST:PORT").into();
        let resolved = address.to_socket_addrs().map_err(|error| format!("{error}; write HOST:PORT"))?;
        for resolved in resolved {
            match TcpStream::connect_timeout(&resolved, HELLO_LIMIT) {
                Err(error) => {
                    last = format!("{error}; does `kvferry-bench transfer --serve` run there?").into();
                }
                Ok(stream) => {
                    stream.set_nodelay(true)?;
                    stream.set_read_timeout(Some(HELLO_LIMIT))?;
                    stream.set_write_timeout(Some(HELLO_LIMIT))?;
                    let from = stream.local_addr()?.ip();
                    let mut reader = BufReader::new(stream.try_clone()?);
                    hello::meet(Side::Client, &mut reader, &mut &stream, secret)?;
                    let stream = Arc::new(Mutex::new(reader));
                    return Ok(Self { address: address.to_owned(), from, stream });
                }
            }
        }
        Err(last)
    }

    fn lock(&self) -> Locked<'_> {
        Locked(self.stream.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Asks the server itself.
    ///
    /// # Errors
    /// What it says, or that it is gone.
    pub fn wish<T: DeserializeOwned>(&self, wish: &Wish, within: Duration) -> Result<T> {
        let mut locked = self.lock();
        let answer = locked.send(wish).and_then(|()| locked.receive(within));
        match answer.map_err(|error| format!("{}: {error}", self.address))? {
            Reply::Ok(value) => Ok(serde_json::from_value(value)?),
            Reply::Error(error) => Err(format!("{}: {error}", self.address).into()),
        }
    }

    /// Starts a worker there, with `tls` as its UCX's transports.
    ///
    /// # Errors
    /// As [`wish`](Self::wish).
    pub fn worker(&self, tls: Option<String>) -> Result<RemoteWorker> {
        let number = self.wish(&Wish::Start { tls }, LOOK_LIMIT)?;
        let name = format!("worker {number} at {}", self.address);
        Ok(RemoteWorker { link: self.clone(), number, name, asked: None })
    }

    /// Ends the session, and waits until the server is free again.
    ///
    /// # Errors
    /// When the server is gone.
    pub fn bye(&self) -> Result<()> {
        self.wish::<Value>(&Wish::Bye, LOOK_LIMIT).map(drop)
    }
}

struct Locked<'a>(MutexGuard<'a, BufReader<TcpStream>>);

impl Locked<'_> {
    fn send(&mut self, wish: &Wish) -> Result<()> {
        line::write(&mut self.0.get_ref(), wish)
    }

    fn receive(&mut self, within: Duration) -> Result<Reply> {
        self.0.get_ref().set_read_timeout(Some(within + ON_ITS_WAY))?;
        line::read(&mut *self.0, line::MAX_LINE)?.ok_or_else(|| "the server has ended the session".into())
    }
}

/// A worker at a server. Its questions are sent when their answers are waited for: a link carries one at a time.
#[derive(Debug)]
pub struct RemoteWorker {
    link: Link,
    number: usize,
    name: String,
    asked: Option<Box<Ask>>,
}

impl Asks for RemoteWorker {
    fn send(&mut self, ask: &Ask) -> Result<()> {
        self.asked = Some(Box::new(ask.clone()));
        Ok(())
    }

    fn receive(&mut self, within: Duration) -> Result<Answer> {
        let ask = self.asked.take().ok_or("nothing was asked")?;
        let wish = Wish::Ask { worker: self.number, ask, within_s: within.as_secs().max(1) };
        let mut locked = self.link.lock();
        let answer = locked.send(&wish).and_then(|()| locked.receive(within));
        answer.map_err(|error| format!("{}: {error}", self.name).into())
    }

    fn name(&self) -> &str {
        &self.name
    }
}
