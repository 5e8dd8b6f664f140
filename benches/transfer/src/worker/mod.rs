//! One process of a run: it holds one end of one fabric (or of a ceiling), and does what is asked of it on its standard
//! input. A process for each end of each side, because CPU time is a process's, a process has one UCX, and what a library
//! breaks in its process it breaks for nobody else.

mod drive;
mod fabric;
mod memcpy;
mod sockets;

use std::io::{BufReader, Write};
use std::time::Duration;

use kvferry_bench_common::{Result, procfs};
use serde_json::{Value, to_value};

use crate::backends::Libraries;
use crate::line;
use crate::protocol::{Answer, Ask, Connected, Opened, Prepared, Ran, Setup, Shift, Verified};
use crate::work::Work;

/// The ceilings that a worker can stand for, by name: what no fabric can beat.
pub const MEMCPY: &str = "memcpy";
/// See [`MEMCPY`].
pub const SOCKETS: &str = "sockets";

/// What a process can hold.
trait Holds {
    fn fill(&mut self, seed: u64) -> Result<()>;
    fn offer(&mut self) -> Result<Value>;
    fn connect(&mut self, offers: &[Value]) -> Result<Connected>;
    fn prepare(&mut self, work: &Work, shift: Shift) -> Result<Prepared>;
    fn run(&mut self, window: Duration) -> Result<Ran>;
    fn verify(&mut self, work: &Work, seed: u64, shift: Shift) -> Result<Verified>;
    fn flip(&mut self, at: u64) -> Result<()>;
}

fn open(setup: &Setup, libraries: &Libraries) -> Result<(Box<dyn Holds>, Opened)> {
    Ok(match setup.backend.as_str() {
        MEMCPY => {
            let (memcpy, opened) = memcpy::Memcpy::open(setup)?;
            (Box::new(memcpy), opened)
        }
        SOCKETS => {
            let (sockets, opened) = sockets::Sockets::open(setup)?;
            (Box::new(sockets), opened)
        }
        _ => {
            let (fabric, opened) = fabric::Held::open(setup, libraries)?;
            (Box::new(fabric), opened)
        }
    })
}

/// Does what standard input asks until it ends.
///
/// # Errors
/// When it is asked for what is no question, or nobody reads the answers.
pub fn run(libraries: &Libraries) -> Result<()> {
    let mut questions = BufReader::new(std::io::stdin().lock());
    let mut answers = std::io::stdout().lock();
    let mut held = None;
    while let Some(ask) = line::read::<Ask>(&mut questions, line::MAX_LINE)? {
        let answer = match answer(ask, &mut held, libraries) {
            Ok(value) => Answer::Ok(value),
            Err(error) => Answer::Error(error.to_string()),
        };
        line::write(&mut answers, &answer)?;
    }
    answers.flush()?;
    Ok(())
}

fn answer(ask: Ask, held: &mut Option<Box<dyn Holds>>, libraries: &Libraries) -> Result<Value> {
    if let Ask::Open(setup) = ask {
        if held.is_some() {
            return Err("this process holds something already".into());
        }
        let (new, opened) = open(&setup, libraries)?;
        *held = Some(new);
        return Ok(to_value(opened)?);
    }
    if ask == Ask::Cpu {
        return Ok(to_value(procfs::cpu_seconds(std::process::id())?)?);
    }
    let held = held.as_mut().ok_or("nothing is open; ask for that first")?;
    Ok(match ask {
        Ask::Fill { seed } => to_value(held.fill(seed)?)?,
        Ask::Offer => held.offer()?,
        Ask::Connect { offers } => to_value(held.connect(&offers)?)?,
        Ask::Prepare { work, shift, .. } => to_value(held.prepare(&work, shift)?)?,
        Ask::Run { window_ms } => to_value(held.run(Duration::from_millis(window_ms))?)?,
        Ask::Verify { work, seed, shift, .. } => to_value(held.verify(&work, seed, shift)?)?,
        Ask::Flip { at } => to_value(held.flip(at)?)?,
        Ask::Open(_) | Ask::Cpu => unreachable!("answered above"),
    })
}
