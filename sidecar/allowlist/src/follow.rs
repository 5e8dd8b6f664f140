//! Follows one collection for ever: list all of it, then watch what changes, and list again only when the API
//! server no longer knows where we were.
//!
//! A listing is handed on only when it is complete, so whoever receives it never sees a part of the truth.

use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

use crate::collection::{Collection, WATCH_SECONDS};
use crate::contact::Contact;
use crate::pace::{CEILING, Pace};
use crate::trouble::{Trouble, Verb};
use crate::wire::{self, Event, Lines};

/// How long a page, or the head of a watch's answer, may take. A busy API server holds a request for up to a minute;
/// a second try after half of that costs it little.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a watch may say nothing at all: the API server ends it after [`WATCH_SECONDS`], so one that is silent
/// beyond that sits on a dead connection.
const SILENCE: Duration = Duration::from_secs(WATCH_SECONDS as u64 + 15);

/// The most objects of one listing: far more pods than any pool has, and some 4 MiB of what is kept of them. Beyond
/// it the selector is a mistake.
const OBJECTS: usize = 20_000;

/// Changes that may wait to be taken, so that a burst does not stop the reader at each one.
const QUEUE: usize = 64;

/// What happened to the collection.
#[derive(Debug)]
pub(crate) enum Change<T> {
    /// All of it, complete.
    Listed(Vec<T>),
    /// One was added or modified.
    Put(T),
    /// One was deleted, or is no longer selected.
    Gone(T),
    /// A call failed and is tried again: in words for an operator.
    Trouble(String),
    /// Calls succeed again.
    Recovered,
}

/// Follows a collection in a task of its own until the receiver is dropped.
pub(crate) fn start<T>(client: Client, what: Collection, contact: Arc<Contact>) -> mpsc::Receiver<Change<T>>
where
    T: DeserializeOwned + Send + 'static,
{
    let (out, changes) = mpsc::channel(QUEUE);
    let dropped = out.clone();
    let mut follower =
        Follower { client, what, contact, out, pace: Pace::default(), troubled: false, kind: PhantomData };
    tokio::spawn(async move {
        tokio::select! {
            () = dropped.closed() => {}
            () = follower.run() => {}
        }
    });
    changes
}

struct Follower<T> {
    client: Client,
    what: Collection,
    contact: Arc<Contact>,
    out: mpsc::Sender<Change<T>>,
    pace: Pace,
    /// Trouble was told and not taken back.
    troubled: bool,
    kind: PhantomData<fn() -> T>,
}

impl<T: DeserializeOwned + Send + 'static> Follower<T> {
    async fn run(&mut self) {
        loop {
            match self.list().await {
                Ok((items, version)) => {
                    self.tell(Change::Listed(items)).await;
                    self.watch(version).await;
                }
                Err(trouble) => self.suffer(Verb::List, &trouble).await,
            }
        }
    }

    /// All pages of a listing and its version.
    async fn list(&self) -> Result<(Vec<T>, String), Trouble> {
        let mut items = Vec::new();
        let mut token = None;
        loop {
            let request = self.what.list(token).map_err(|error| Trouble::unreachable(&error))?;
            let answer = async { wire::page::<T>(wire::send(&self.client, request).await?).await };
            let page = timeout(ANSWER_TIMEOUT, answer).await.map_err(|_| Trouble::Silent)??;
            self.contact.touch();
            items.extend(page.items);
            if items.len() > OBJECTS {
                return Err(Trouble::TooMuch("20000 objects"));
            }
            match page.next {
                Some(next) => token = Some(next),
                None => return Ok((items, page.version)),
            }
        }
    }

    /// Watches, again and again from where the last watch ended, until only a new listing helps.
    async fn watch(&mut self, mut version: String) {
        loop {
            let result = self.watch_once(&mut version).await;
            match result {
                Ok(()) => sleep(self.pace.next()).await,
                Err(trouble) => {
                    self.suffer(Verb::Watch, &trouble).await;
                    if trouble.needs_listing() {
                        return;
                    }
                }
            }
        }
    }

    /// One watch, from a version to its end.
    async fn watch_once(&mut self, version: &mut String) -> Result<(), Trouble> {
        let request = self.what.watch(version).map_err(|error| Trouble::unreachable(&error))?;
        let answer = wire::send(&self.client, request);
        let mut lines = Lines::new(timeout(ANSWER_TIMEOUT, answer).await.map_err(|_| Trouble::Silent)??);
        let opened = Instant::now();
        self.contact.touch();
        self.recover().await;
        let result = loop {
            let line = match timeout(SILENCE, lines.next()).await {
                Ok(Ok(Some(line))) => line,
                Ok(Ok(None)) => break Ok(()),
                Ok(Err(trouble)) => break Err(trouble),
                Err(_) => break Err(Trouble::Silent),
            };
            match wire::event::<T>(&line) {
                Ok(event) => self.pass_on(event, version).await,
                Err(trouble) => break Err(trouble),
            }
        };
        // A watch that lived was no failure, even if nothing happened while it did.
        if opened.elapsed() >= CEILING {
            self.pace.reset();
        }
        result
    }

    async fn pass_on(&mut self, event: Event<T>, version: &mut String) {
        self.contact.touch();
        self.pace.reset();
        match event {
            Event::Put(object, at) => {
                self.tell(Change::Put(object)).await;
                *version = at;
            }
            Event::Gone(object, at) => {
                self.tell(Change::Gone(object)).await;
                *version = at;
            }
            Event::Bookmark(at) => *version = at,
        }
    }

    /// Tells of trouble and waits before the next try.
    async fn suffer(&mut self, verb: Verb, trouble: &Trouble) {
        if let Some(advice) = trouble.advice(verb, &self.what) {
            self.troubled = true;
            self.tell(Change::Trouble(advice)).await;
        }
        sleep(self.pace.next()).await;
    }

    async fn recover(&mut self) {
        if std::mem::take(&mut self.troubled) {
            self.tell(Change::Recovered).await;
        }
    }

    async fn tell(&self, change: Change<T>) {
        // A dropped receiver ends this task at its next step.
        let _ = self.out.send(change).await;
    }
}
