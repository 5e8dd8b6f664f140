//! What the stand-in's cluster holds, and what it says of it: pages of listings and events since a version.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard};

use serde_json::{Value, json};
use tokio::sync::watch;

use super::{Ending, Verb};

pub(super) struct Shared {
    pub(super) cluster: Mutex<Cluster>,
    /// Counts what happened, to wake whoever waits for it.
    pub(super) tick: watch::Sender<u64>,
}

#[derive(Default)]
pub(super) struct Cluster {
    /// The resource version, one more at every change.
    pub(super) version: u64,
    /// Changes before this version are forgotten.
    pub(super) oldest: u64,
    pub(super) served: BTreeSet<&'static str>,
    pub(super) objects: BTreeMap<(&'static str, String), Value>,
    pub(super) history: Vec<Entry>,
    /// What is left of listings that were begun.
    pub(super) rests: BTreeMap<String, (Vec<Value>, u64)>,
    pub(super) page: Option<usize>,
    /// So many continue tokens will be too old.
    pub(super) lost_pages: usize,
    pub(super) refused: BTreeMap<(&'static str, Verb), u16>,
    pub(super) held: BTreeSet<&'static str>,
    /// Text to be sent on open watches as it is, once each.
    pub(super) lines: Vec<(&'static str, String)>,
    pub(super) ending: Option<Ending>,
    /// One more whenever open watches are to end.
    pub(super) endings: u64,
    pub(super) counts: BTreeMap<(&'static str, Verb), usize>,
    pub(super) open: usize,
    /// From which version the last watch of a collection was asked for.
    pub(super) watched_from: BTreeMap<&'static str, u64>,
    /// The body of every listing, if it is not to be an honest one.
    pub(super) false_list: Option<String>,
}

pub(super) struct Entry {
    pub(super) version: u64,
    pub(super) collection: &'static str,
    pub(super) before: Option<Value>,
    pub(super) after: Option<Value>,
}

impl Shared {
    pub(super) fn cluster(&self) -> MutexGuard<'_, Cluster> {
        self.cluster.lock().unwrap()
    }

    pub(super) fn change(&self, change: impl FnOnce(&mut Cluster)) {
        change(&mut self.cluster());
        self.tick.send_modify(|tick| *tick += 1);
    }
}

impl Cluster {
    pub(super) fn set(&mut self, collection: &'static str, name: &str, object: Option<&Value>) {
        self.version += 1;
        let key = (collection, name.to_owned());
        let version = |mut object: Value| {
            object["metadata"]["resourceVersion"] = json!(self.version.to_string());
            object
        };
        let after = object.cloned().map(version);
        let before = match &after {
            Some(object) => self.objects.insert(key, object.clone()),
            // A deleted object is sent with the version of its deletion.
            None => self.objects.remove(&key).map(version),
        };
        self.history.push(Entry { version: self.version, collection, before, after });
    }

    /// A page: its status and body.
    pub(super) fn list(
        &mut self,
        collection: &'static str,
        query: &BTreeMap<String, String>,
    ) -> (u16, String) {
        if let Some(body) = &self.false_list {
            return (200, body.clone());
        }
        let (mut items, version) = if let Some(token) = query.get("continue") {
            let lost = self.lost_pages > 0;
            self.lost_pages = self.lost_pages.saturating_sub(1);
            match self.rests.remove(token) {
                Some(rest) if !lost => rest,
                _ => return (410, status(410, "the continue token is too old")),
            }
        } else {
            let of_it = self.objects.iter().filter(|((of, _), _)| *of == collection);
            let items = of_it.map(|(_, object)| object).filter(|object| selected(object, query));
            (items.cloned().collect(), self.version)
        };
        let limit: usize = query["limit"].parse().unwrap();
        let rest = items.split_off(items.len().min(self.page.unwrap_or(limit)));
        let mut metadata = json!({"resourceVersion": version.to_string()});
        if !rest.is_empty() {
            let token = format!("{version}/{}+{}", collection, rest.len());
            metadata["continue"] = json!(token);
            self.rests.insert(token, (rest, version));
        }
        (200, json!({"kind": "List", "metadata": metadata, "items": items}).to_string())
    }

    /// The events of a watch after a version, as lines.
    pub(super) fn events(
        &self,
        collection: &str,
        query: &BTreeMap<String, String>,
        after: u64,
    ) -> Vec<String> {
        let news =
            self.history.iter().filter(|entry| entry.collection == collection && entry.version > after);
        let lines = news.filter_map(|entry| {
            let before = entry.before.as_ref().filter(|object| selected(object, query));
            let after = entry.after.as_ref().filter(|object| selected(object, query));
            let (kind, object) = match (before, after) {
                (None, Some(object)) => ("ADDED", object.clone()),
                (Some(_), Some(object)) => ("MODIFIED", object.clone()),
                (Some(object), None) => ("DELETED", {
                    let mut object = object.clone();
                    object["metadata"]["resourceVersion"] = json!(entry.version.to_string());
                    object
                }),
                (None, None) => return None,
            };
            Some(json!({"type": kind, "object": object}).to_string())
        });
        lines.collect()
    }
}

fn selected(object: &Value, query: &BTreeMap<String, String>) -> bool {
    let metadata = &object["metadata"];
    let matches = |selector: &String, labels: bool| {
        selector.split(',').filter_map(|term| term.split_once('=')).all(|(key, value)| {
            let found =
                if labels { &metadata["labels"][key] } else { &metadata[key.replace("metadata.", "")] };
            *found == value
        })
    };
    query.get("labelSelector").is_none_or(|selector| matches(selector, true))
        && query.get("fieldSelector").is_none_or(|selector| matches(selector, false))
}

/// The body of an answer that reports an error.
pub(super) fn status(code: u16, message: &str) -> String {
    json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "message": message})
        .to_string()
}
