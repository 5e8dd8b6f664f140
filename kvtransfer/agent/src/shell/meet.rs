//! How two agents meet: who they are, whether they know the same secret, and what they offer. One task for each connection,
//! which ends with a [`Meeting`] or with the reason why there is none; and the other side is told that reason.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kvferry_transfer::{AgentName, Epoch};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Timeout, timeout};

use super::stream::{self, Duplex};
use super::{Arrival, Mail, Wanted};
use crate::Error;
use crate::agent::random;
use crate::events::Peer;
use crate::limits::{LAST_WORDS, MAX_FRAME, MAX_GREETING};
use crate::options::{Secret, Tls};
use crate::protocol::{Frame, Greeting, Hello, MAGIC, Role, check, prove, proves};
use crate::roster::Identity;

/// What all connections of an agent begin with.
#[derive(Debug)]
pub(super) struct Own {
    pub(super) name: AgentName,
    pub(super) epoch: Epoch,
    pub(super) secret: Option<Secret>,
    pub(super) tls: Option<Tls>,
    pub(super) within: Duration,
    pub(super) mail: mpsc::Sender<Mail>,
}

/// A connection on which both have said hello.
pub(super) struct Meeting {
    pub(super) who: Identity,
    /// The session that was said.
    pub(super) said: u64,
    pub(super) hello: Hello,
    pub(super) stream: Box<dyn Duplex>,
}

impl fmt::Debug for Meeting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Meeting").field("who", &self.who).finish_non_exhaustive()
    }
}

/// How a connection began.
enum Begun {
    /// Both have said hello.
    Met(Box<Meeting>),
    /// The other side is a peer already, with connections enough.
    Known(Peer),
}

/// Goes to meet whoever answers at `address`.
pub(super) async fn call(
    own: Arc<Own>,
    address: String,
    expected: Option<(AgentName, Option<Epoch>)>,
    wanted: Wanted,
) {
    let mut said = None;
    let meeting = async {
        let stream = stream::call(&address, own.tls.as_ref()).await?;
        greet(&own, stream, Role::Caller, expected.as_ref(), &mut said).await
    };
    let met = timeout(own.within, meeting).await.unwrap_or_else(|_| {
        let millis = own.within.as_millis();
        Err(Error::Unreachable(address.clone(), format!("no answer to the greeting within {millis} ms")))
    });
    tell(&own, met, said, Some(wanted)).await;
}

/// Answers whoever has connected.
pub(super) async fn answer(own: Arc<Own>, stream: TcpStream) {
    let mut said = None;
    let meeting = async {
        let stream = stream::answer(stream, own.tls.as_ref()).await?;
        greet(&own, stream, Role::Called, None, &mut said).await
    };
    let met = timeout(own.within, meeting).await;
    let met =
        met.unwrap_or_else(|_| Err(Error::Silent(own.within.as_millis().try_into().unwrap_or(u64::MAX))));
    tell(&own, met, said, None).await;
}

async fn tell(own: &Own, met: Result<Begun, Error>, said: Option<(Identity, u64)>, wanted: Option<Wanted>) {
    let mail = match met {
        Ok(Begun::Met(meeting)) => Mail::Met(meeting, wanted),
        Ok(Begun::Known(peer)) => Mail::Again(peer, wanted),
        Err(error) => Mail::NotMet(error, said, wanted),
    };
    // Nobody reads it once the agent is closed.
    own.mail.send(mail).await.ok();
}

/// From the first byte to both hellos. `said` is set once the session was said.
async fn greet(
    own: &Own,
    mut stream: Box<dyn Duplex>,
    role: Role,
    expected: Option<&(AgentName, Option<Epoch>)>,
    said: &mut Option<(Identity, u64)>,
) -> Result<Begun, Error> {
    match talk(own, &mut *stream, role, expected, said).await {
        Ok(Talked::Hello(who, said, hello)) => Ok(Begun::Met(Box::new(Meeting { who, said, hello, stream }))),
        Ok(Talked::Known(peer)) => Ok(Begun::Known(peer)),
        Err(error) => {
            match (role, turned_away(stream, &error)) {
                // Whoever called knows the reason, and does not wait until the other side does.
                (Role::Caller, Some(telling)) => drop(tokio::spawn(telling)),
                // Its socket counts as a stranger's for as long as it is open.
                (Role::Called, Some(telling)) => drop(telling.await),
                (_, None) => {}
            }
            Err(error)
        }
    }
}

enum Talked {
    Hello(Identity, u64, Hello),
    Known(Peer),
}

async fn talk(
    own: &Own,
    stream: &mut dyn Duplex,
    role: Role,
    expected: Option<&(AgentName, Option<Epoch>)>,
    said: &mut Option<(Identity, u64)>,
) -> Result<Talked, Error> {
    let mut nonce = [0; 32];
    random(&mut nonce)?;
    let greeting = Greeting { name: own.name.clone(), epoch: own.epoch, nonce, secret: own.secret.is_some() };
    let ours = Bytes::from(greeting.encode());
    say(stream, &MAGIC).await?;
    say(stream, &Frame::Greeting(ours.clone()).encode()).await?;
    let mut magic = [0; 4];
    stream::exactly(stream, &mut magic).await?;
    if magic != MAGIC {
        return Err(Error::Foreign);
    }
    let Frame::Greeting(theirs) = hear(stream, MAX_GREETING).await? else { return Err(OUT_OF_TURN) };
    let other = Greeting::decode(&theirs)?;
    check(&greeting, &other, expected)?;
    if let Some(secret) = &own.secret {
        let (callers, calleds) = match role {
            Role::Caller => (&ours, &theirs),
            Role::Called => (&theirs, &ours),
        };
        let proof = prove(secret.bytes(), role, callers, calleds);
        say(stream, &Frame::Proof(Bytes::copy_from_slice(&proof)).encode()).await?;
        let Frame::Proof(proof) = hear(stream, MAX_GREETING).await? else { return Err(OUT_OF_TURN) };
        if !proves(secret.bytes(), role.other(), callers, calleds, &proof) {
            return Err(Error::Unauthenticated("it knows another secret"));
        }
    }
    let who = (other.name, other.epoch);
    let (answer, session) = oneshot::channel();
    own.mail.send(Mail::Arrived(who.clone(), role, answer)).await.map_err(|_| Error::Closed)?;
    let (session, hello) = match session.await.map_err(|_| Error::Closed)?? {
        Arrival::Welcome(session, hello) => (session, hello),
        Arrival::Known(peer) => return Ok(Talked::Known(peer)),
    };
    *said = Some((who.clone(), session));
    say(stream, &hello).await?;
    let Frame::Hello(hello) = hear(stream, MAX_FRAME).await? else { return Err(OUT_OF_TURN) };
    Ok(Talked::Hello(who, session, *hello))
}

const OUT_OF_TURN: Error = Error::Malformed("it is not what is said at that point");

async fn say(stream: &mut dyn Duplex, bytes: &[u8]) -> Result<(), Error> {
    let written = async {
        stream.write_all(bytes).await?;
        stream.flush().await
    };
    written.await.map_err(|error| Error::PeerLost(error.to_string()))
}

async fn hear(stream: &mut dyn Duplex, most: usize) -> Result<Frame, Error> {
    match Frame::decode(&stream::frame(stream, most).await?)? {
        Frame::Refuse(code, words) => Err(Error::TurnedAway(code, words)),
        frame => Ok(frame),
    }
}

/// Tells the other side why not. `None` if it knows, or has gone.
fn turned_away(
    mut stream: Box<dyn Duplex>,
    error: &Error,
) -> Option<Timeout<impl Future<Output = ()> + Send + use<>>> {
    if matches!(error, Error::TurnedAway(..) | Error::PeerLost(_)) {
        return None;
    }
    let words = Frame::Refuse(error.code().into(), error.to_string()).encode();
    Some(timeout(LAST_WORDS, async move {
        // What was not read would make the system throw away what was said.
        if say(&mut *stream, &words).await.is_ok() && stream.shutdown().await.is_ok() {
            let mut rest = [0; 512];
            while stream.read(&mut rest).await.is_ok_and(|count| count > 0) {}
        }
    }))
}
