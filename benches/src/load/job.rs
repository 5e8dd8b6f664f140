//! One unit of load: the request bytes of each leg, made once and sent a million times, and the check that every answer
//! is the one that was asked for.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use memchr::memmem;

use super::connection::{Arrival, Connection};
use super::tally::Tally;

/// The member in which the emulator tells when it wrote a frame, nanoseconds since the Unix epoch.
const EMISSION: &[u8] = b"\"emitted_ns\":";

/// One request to one address. Through a proxy a job has one leg; the client that does without a proxy sends the prefill
/// and the decode request itself, one after the other.
#[derive(Debug, Clone)]
pub struct Leg {
    /// Where it goes.
    pub address: SocketAddr,
    /// The whole request, head and body.
    pub request: Bytes,
    /// How many SSE frames the answer must have, `[DONE]` not counted; `None` for an answer that is one JSON object.
    pub frames: Option<u64>,
}

/// What is sent for one request of a client.
#[derive(Debug, Clone)]
pub struct Job {
    /// In order; the last one's answer is the client's.
    pub legs: Vec<Leg>,
}

/// What one request brought, times counted from its start.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    /// To the first byte of the answer's body.
    pub first_byte: Duration,
    /// To its last byte.
    pub total: Duration,
}

/// One client: a connection for each leg.
#[derive(Debug)]
pub struct Worker {
    job: Rc<Job>,
    connections: Vec<Connection>,
}

impl Worker {
    /// A client that has not connected yet.
    pub fn new(job: &Rc<Job>) -> Self {
        let connections = job.legs.iter().map(|leg| Connection::new(leg.address)).collect();
        Self { job: Rc::clone(job), connections }
    }

    /// How often it connected.
    pub fn opened(&self) -> u64 {
        self.connections.iter().map(|connection| connection.opened).sum()
    }

    /// Sends the job once. Latency counts from `start`, which may lie in the past: the scheduled time in open loop.
    ///
    /// # Errors
    /// With what was wrong with an answer.
    pub async fn once(&mut self, start: Instant, tally: &Tally) -> Result<Times, String> {
        let mut times = Times { first_byte: Duration::ZERO, total: Duration::ZERO };
        for (leg, connection) in self.job.legs.iter().zip(&mut self.connections) {
            let mut frames = 0;
            let mut done = false;
            let mut observe = |arrival: Arrival<'_>| {
                if arrival.frame == b"data: [DONE]" {
                    done = true;
                } else {
                    frames += 1;
                    tally.frame(arrival.joined_to > 0, transit(arrival.frame));
                }
            };
            let answer = connection.exchange(&leg.request, &mut observe).await?;
            if answer.status != 200 {
                return Err(format!("status {}", answer.status));
            }
            match leg.frames {
                None if !answer.json_object => return Err("the answer is no JSON object".to_owned()),
                Some(expected) if !answer.event_stream || !done || frames != expected => {
                    return Err(format!("{frames} SSE frames instead of {expected}, [DONE] seen: {done}"));
                }
                _ => {}
            }
            times = Times { first_byte: answer.first_byte - start, total: answer.end - start };
        }
        Ok(times)
    }
}

/// How long a frame was under way, from the emulator's stamp; `None` for a frame without one.
fn transit(frame: &[u8]) -> Option<Duration> {
    let at = memmem::find(frame, EMISSION)? + EMISSION.len();
    let digits = frame[at..].iter().take_while(|byte| byte.is_ascii_digit());
    let emitted =
        digits.fold(0_u64, |value, digit| value.wrapping_mul(10).wrapping_add(u64::from(digit - b'0')));
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).ok()?;
    // A clock that was set back in between gives zero instead of an absurd figure.
    (emitted > 0).then(|| now.saturating_sub(Duration::from_nanos(emitted)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transit_time_needs_a_stamp() {
        assert_eq!(transit(b"data: {}"), None);
        assert_eq!(transit(b"data: {\"emitted_ns\":0,\"id\":1}"), None);
        let long_ago = transit(b"data: {\"emitted_ns\":1000000000,\"id\":1}").unwrap();
        assert!(long_ago > Duration::from_secs(86_400 * 365));
    }
}
