//! Jobs take turns. Each gets one slice and goes to the end of the line, so that a transfer of 40 GiB does not starve one of
//! 10 MiB; and all threads may work for one job when it is alone.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use super::job::{After, Job, Turn};

/// The line, and the threads that wait for it.
#[derive(Debug, Default)]
pub(super) struct Pool {
    line: Mutex<Line>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Line {
    jobs: VecDeque<Arc<Job>>,
    closed: bool,
}

impl Pool {
    /// Takes a job in.
    pub(super) fn push(&self, job: Arc<Job>) {
        self.line().jobs.push_back(job);
        self.changed.notify_one();
    }

    /// Stops a job. Its end is reported by a thread of the pool, soon: it goes to the front.
    pub(super) fn stop(&self, job: &Arc<Job>) {
        job.stop();
        let mut line = self.line();
        if let Some(at) = line.jobs.iter().position(|other| Arc::ptr_eq(other, job)) {
            let job = line.jobs.remove(at).expect("it was found there");
            line.jobs.push_front(job);
        }
    }

    /// Lets the threads go once no jobs are left.
    pub(super) fn close(&self) {
        self.line().closed = true;
        self.changed.notify_all();
    }

    /// What a thread of the pool does. `ended` is told of each job that has ended, once.
    pub(super) fn work(&self, ended: impl Fn(&Job)) {
        while let Some(job) = self.next() {
            self.turn(job, &ended);
        }
    }

    /// Does all of a job, here and now: for one that was not pushed.
    pub(super) fn work_here(job: &Job, ended: impl Fn(&Job)) {
        loop {
            match job.take() {
                Turn::Slice(slice, _) => {
                    if job.copy(slice) == After::Ended {
                        return ended(job);
                    }
                }
                Turn::Ended => return ended(job),
                Turn::Nothing => return,
            }
        }
    }

    fn next(&self) -> Option<Arc<Job>> {
        let mut line = self.line();
        loop {
            if let Some(job) = line.jobs.pop_front() {
                return Some(job);
            }
            if line.closed {
                return None;
            }
            line = self.changed.wait(line).expect("nothing panics while it holds the line");
        }
    }

    fn turn(&self, job: Arc<Job>, ended: &impl Fn(&Job)) {
        match job.take() {
            Turn::Slice(slice, more) => {
                if more {
                    self.push(Arc::clone(&job));
                }
                match job.copy(slice) {
                    After::Ended => ended(&job),
                    After::Again => self.push(job),
                    After::Nothing => {}
                }
            }
            Turn::Ended => ended(&job),
            Turn::Nothing => {}
        }
    }

    fn line(&self) -> MutexGuard<'_, Line> {
        self.line.lock().expect("nothing panics while it holds the line")
    }
}
