//! The task that keeps the list: it finds a client, follows the pool, follows the pods that the pool selects at
//! present, and publishes what the two add up to.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use kube::Client;
use kvferry_contract::Endpoint;
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;

use crate::collection::Collection;
use crate::contact::Contact;
use crate::follow::{self, Change};
use crate::pace::Pace;
use crate::pods::Pod;
use crate::pool_ref::PoolRef;
use crate::source::ClientSource;
use crate::verdict::List;
use crate::view::{Report, Step, View};

/// Changes that are applied before the result is published: a burst of pod events costs one new set, not one each.
const BATCH: usize = 64;

/// What the task writes and everybody else reads.
#[derive(Debug)]
pub(crate) struct Board {
    pub(crate) report: watch::Sender<Report>,
    pub(crate) endpoints: watch::Sender<Arc<[Endpoint]>>,
    contacts: Mutex<Contacts>,
    started: Instant,
}

#[derive(Debug, Default)]
struct Contacts {
    pool: Arc<Contact>,
    /// None while no pods are followed.
    pods: Option<Arc<Contact>>,
}

impl Board {
    pub(crate) fn new(report: Report) -> Self {
        Self {
            report: watch::Sender::new(report),
            endpoints: watch::Sender::new(Arc::default()),
            contacts: Mutex::default(),
            started: Instant::now(),
        }
    }

    /// How long the API server was last silent, by the collection that has been silent for longest; none if one of
    /// them was never heard of.
    pub(crate) fn since_contact(&self) -> Option<Duration> {
        let contacts = self.contacts.lock().unwrap_or_else(PoisonError::into_inner);
        let pool = contacts.pool.age()?;
        match &contacts.pods {
            Some(pods) => Some(pool.max(pods.age()?)),
            None => Some(pool),
        }
    }

    /// How long the list has been wanted.
    pub(crate) fn age(&self) -> Duration {
        self.started.elapsed()
    }

    fn publish(&self, report: Report) {
        let endpoints = match &report.list {
            List::Known(targets) => Arc::clone(targets.endpoints()),
            List::Waiting(_) | List::Unneeded => Arc::default(),
        };
        self.report.send_if_modified(|known| replace(known, report));
        self.endpoints.send_if_modified(|known| replace(known, endpoints));
    }

    fn pool_contact(&self) -> Arc<Contact> {
        Arc::clone(&self.contacts.lock().unwrap_or_else(PoisonError::into_inner).pool)
    }

    /// The contact of the pods, the same one when another selector takes over: the list in force is as old as before.
    fn pods_contact(&self) -> Arc<Contact> {
        let mut contacts = self.contacts.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(contacts.pods.get_or_insert_default())
    }

    fn no_pods_contact(&self) {
        self.contacts.lock().unwrap_or_else(PoisonError::into_inner).pods = None;
    }
}

fn replace<T: PartialEq>(known: &mut T, new: T) -> bool {
    let differs = *known != new;
    if differs {
        *known = new;
    }
    differs
}

/// Keeps the board current until the task is ended.
pub(crate) async fn run(board: Arc<Board>, pool: PoolRef, source: ClientSource) {
    let mut view = View::new(pool.clone());
    let client = find_client(&board, &mut view, &source).await;
    let mut pool_changes = follow::start(client.clone(), Collection::pool(&pool), board.pool_contact());
    let mut pod_changes: Option<mpsc::Receiver<Change<Pod>>> = None;
    let (mut of_pool, mut of_pods) = (Vec::new(), Vec::new());
    loop {
        let taken = tokio::select! {
            taken = pool_changes.recv_many(&mut of_pool, BATCH) => taken,
            taken = receive(&mut pod_changes, &mut of_pods) => taken,
        };
        if taken == 0 {
            // A follower ends only with its receiver, or by a bug. What is in force stays, and its age shows.
            tracing::error!("the allowlist is no longer kept up to date");
            return;
        }
        for change in of_pods.drain(..) {
            view.pods(change);
        }
        for change in of_pool.drain(..) {
            match view.pool(change) {
                Step::Stay => {}
                Step::Follow(spec) => {
                    let pods = Collection::pods(&pool, &spec);
                    pod_changes = Some(follow::start(client.clone(), pods, board.pods_contact()));
                }
                Step::Stop => {
                    pod_changes = None;
                    board.no_pods_contact();
                }
            }
        }
        board.publish(view.report());
    }
}

async fn find_client(board: &Board, view: &mut View, source: &ClientSource) -> Client {
    let mut pace = Pace::default();
    loop {
        match source.client().await {
            Ok(client) => {
                view.client_found();
                board.publish(view.report());
                return client;
            }
            Err(trouble) => view.no_client(&trouble),
        }
        board.publish(view.report());
        sleep(pace.next()).await;
    }
}

/// As `recv_many`, and for ever pending while no pods are followed.
async fn receive(changes: &mut Option<mpsc::Receiver<Change<Pod>>>, into: &mut Vec<Change<Pod>>) -> usize {
    match changes {
        Some(changes) => changes.recv_many(into, BATCH).await,
        None => std::future::pending().await,
    }
}
