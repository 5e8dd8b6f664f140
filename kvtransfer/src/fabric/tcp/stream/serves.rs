//! The side of a stream that serves: every range of every chunk is checked against its lease, a read's when its turn has
//! come, a write's before its first byte is stored.

use std::collections::VecDeque;
use std::sync::Arc;

use super::super::book::InUse;
use super::super::digest::Digest;
use super::super::limits::{MAX_WAITING, UNSENT_LOW};
use super::super::memory::Ranges;
use super::super::wire::{Answer, Asked, Head, Kind, Violation};
use super::Context;
use super::outbox::Outbox;
use super::receive::{Arriving, Purpose, Sink};
use crate::Token;
use crate::fabric::common::Identity;
use crate::lease::{Access, Refused};
use crate::segment::Span;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Owner {
    life: Option<Arc<Identity>>,
    /// Reads that wait for their turn.
    waiting: VecDeque<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    id: u64,
    checked: bool,
    bytes: u32,
    token: Token,
    ranges: Vec<Span>,
}

impl Owner {
    /// Who it serves, once that is known.
    pub(super) fn life(&self) -> Option<&Arc<Identity>> {
        self.life.as_ref()
    }

    pub(super) fn meets(&mut self, life: Arc<Identity>) {
        self.life = Some(life);
    }

    /// A guest asks; the data that follows, if any.
    pub(super) fn asked(
        &mut self,
        head: &Head,
        asked: Asked,
        cx: &mut Context<'_>,
    ) -> Result<Option<Arriving>, Violation> {
        let Asked { token, ranges, message } = asked;
        if head.kind == Kind::Read {
            if self.waiting.len() >= MAX_WAITING {
                return Err(Violation("more requests than may wait"));
            }
            let (id, checked, bytes) = (head.id, head.checked, head.bytes);
            self.waiting.push_back(Waiting { id, checked, bytes, token, ranges });
            return Ok(None);
        }
        let (sink, used, answer) = match open(token, Access::Write, &ranges, cx) {
            Ok((used, places)) => (Sink::Places(places), Some(used), Answer::Good),
            Err(refused) => (Sink::Nowhere(u64::from(head.bytes)), None, Answer::Refused(refused)),
        };
        let digest = head.checked.then(|| (Digest::default(), head.digest));
        let message = (!message.is_empty()).then_some(message);
        let purpose = Purpose::Write { id: head.id, used, answer, message };
        Ok(Some(Arriving { sink, digest, purpose }))
    }

    /// Serves reads while the outbox is low.
    pub(super) fn serve(&mut self, outbox: &mut Outbox, cx: &mut Context<'_>) -> Result<(), Violation> {
        while outbox.left() < UNSENT_LOW {
            let Some(Waiting { id, checked, bytes, token, ranges }) = self.waiting.pop_front() else { break };
            let mut head = Head { checked, ..Head::new(Kind::Data, id) };
            match open(token, Access::Read, &ranges, cx) {
                Ok((used, places)) => {
                    head.bytes = bytes;
                    if checked {
                        head.digest = places.digest_all().value();
                    }
                    outbox.push_data(head.frame(), Some(places), Some(used))?;
                }
                Err(refused) => {
                    head.answer = Answer::Refused(refused);
                    outbox.push(head.frame())?;
                }
            }
        }
        Ok(())
    }
}

/// The places of `ranges`, if their lease allows it now.
fn open(token: Token, access: Access, ranges: &[Span], cx: &Context<'_>) -> Result<(InUse, Ranges), Refused> {
    let used = cx.shared.with(|state| state.begin_use(token, access, ranges, cx.now))?;
    // A region is not let go while a lease names it, so this finds all of them; were it otherwise, nothing is touched.
    let places = Ranges::new(&cx.shared.registry(), ranges.iter().copied());
    let Ok(places) = places else {
        cx.shared.with(|state| state.end_use(used));
        return Err(Refused::Outside);
    };
    Ok((used, places))
}
