//! Processes that a run starts. Each ends with its handle, and all of them when this process is asked to stop: they are
//! written down by their ids, which nobody else has while they are not waited for.

use std::collections::BTreeSet;
use std::io::{BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use kvferry_bench_common::Result;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::asks::Asks;
use crate::line;
use crate::protocol::{Answer, Ask};

static LIVE: Mutex<BTreeSet<u32>> = Mutex::new(BTreeSet::new());

/// Kills all processes that this one has started and not ended yet: it is about to end itself.
pub fn end_children() {
    for pid in LIVE.lock().unwrap_or_else(PoisonError::into_inner).iter() {
        if let Ok(pid) = i32::try_from(*pid) {
            // It may have ended this moment.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

/// A process that is killed when this is dropped.
#[derive(Debug)]
pub struct Owned(Child);

impl Owned {
    /// Starts it.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(command: &mut Command) -> Result<Self> {
        let mut live = LIVE.lock().unwrap_or_else(PoisonError::into_inner);
        let program = command.get_program().to_owned();
        let child =
            command.spawn().map_err(|error| format!("cannot start {}: {error}", program.display()))?;
        live.insert(child.id());
        Ok(Self(child))
    }

    fn signal(&self, signal: Signal) {
        if let Ok(pid) = i32::try_from(self.0.id()) {
            // It may have ended; whoever waits for its answer will hear of it.
            let _ = kill(Pid::from_raw(pid), signal);
        }
    }

    /// The process.
    pub fn child(&mut self) -> &mut Child {
        &mut self.0
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        let mut live = LIVE.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = self.0.kill();
        // Without a wait, its id would stay taken, and its last CPU time unseen.
        let _ = self.0.wait();
        live.remove(&self.0.id());
    }
}

/// A worker that is a child of this process.
pub struct ChildWorker {
    name: String,
    stdin: ChildStdin,
    answers: Receiver<Result<Option<Answer>>>,
    process: Owned,
}

impl ChildWorker {
    /// Starts `command`, which is to speak the workers' protocol. What it says on stderr goes where this process's does.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(name: String, command: &mut Command) -> Result<Self> {
        let mut process = Owned::start(command.stdin(Stdio::piped()).stdout(Stdio::piped()))?;
        let child = process.child();
        let stdin = child.stdin.take().ok_or("its standard input is no pipe")?;
        let mut stdout = BufReader::new(child.stdout.take().ok_or("its standard output is no pipe")?);
        // One answer waits at most: there is one question at a time.
        let (answer, answers) = sync_channel(1);
        thread::spawn(move || {
            loop {
                let read = line::read(&mut stdout, line::MAX_LINE);
                let last = !matches!(read, Ok(Some(_)));
                if answer.send(read).is_err() || last {
                    return;
                }
            }
        });
        Ok(Self { name, stdin, answers, process })
    }

    fn gone(&mut self, why: &str) -> String {
        let end = match self.process.child().try_wait() {
            Ok(Some(status)) => format!("it ended with {status}"),
            _ => "it still runs".to_owned(),
        };
        format!("{}: {why}; {end}", self.name)
    }
}

impl Asks for ChildWorker {
    fn send(&mut self, ask: &Ask) -> Result<()> {
        let sent = line::write(&mut self.stdin, ask).and_then(|()| Ok(self.stdin.flush()?));
        sent.map_err(|error| self.gone(&format!("takes no question ({error})")).into())
    }

    fn receive(&mut self, within: Duration) -> Result<Answer> {
        match self.answers.recv_timeout(within) {
            Ok(Ok(Some(answer))) => Ok(answer),
            Ok(Err(error)) => Err(self.gone(&format!("an answer that is none: {error}")).into()),
            Err(RecvTimeoutError::Timeout) => {
                Err(self.gone(&format!("no answer within {} s", within.as_secs())).into())
            }
            Ok(Ok(None)) | Err(RecvTimeoutError::Disconnected) => {
                // The pipe ends a moment before the process does.
                thread::sleep(Duration::from_millis(50));
                Err(self.gone("no answer").into())
            }
        }
    }

    fn hold(&mut self, still: bool) {
        self.process.signal(if still { Signal::SIGSTOP } else { Signal::SIGCONT });
    }

    fn name(&self) -> &str {
        &self.name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> ChildWorker {
        ChildWorker::start("side".into(), Command::new("sh").args(["-c", script])).unwrap()
    }

    #[test]
    fn a_worker_that_ends_talks_nonsense_or_is_silent_is_told_apart() {
        let error = |script: &str| {
            let mut worker = shell(script);
            worker.receive(Duration::from_millis(500)).unwrap_err().to_string()
        };
        assert!(error("exit 3").contains("exit status: 3"));
        assert!(error("echo hello; sleep 9").contains("an answer that is none"));
        assert!(error("sleep 9").contains("no answer within 0 s; it still runs"));
    }

    #[test]
    fn what_it_says_and_what_it_reads_are_answers_and_questions() {
        let mut worker = shell(r#"read line; echo '{"ok":2.5}'; echo '{"error":"no"}'"#);
        let within = Duration::from_secs(10);
        assert!((crate::asks::ask::<f64>(&mut worker, &Ask::Cpu, within).unwrap() - 2.5).abs() < 1e-9);
        let error = crate::asks::receive::<f64>(&mut worker, within).unwrap_err();
        assert_eq!(error.to_string(), "side: no");
    }
}
