//! What the core is told and what it says: events in, commands out.

/// One of the two upstream exchanges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leg {
    /// To the prefill engine.
    Prefill,
    /// To the decode engine.
    Decode,
}

/// Where a request whose prefill failed might do better.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Again {
    /// Nowhere: it is the request that is wrong.
    Never,
    /// With another engine.
    Elsewhere,
    /// With the same engine a moment later, or with another.
    Here,
    /// With another engine at once, or with the same a moment later: it was never reached, so nothing ran there that a
    /// second engine would repeat.
    Anywhere,
}

/// Why the client gets an error of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// The leg failed; who runs it knows how.
    Failed(Leg),
    /// The prefill leg's own limit passed.
    PrefillTimeout,
    /// The limit of both legs together passed during this leg.
    RequestTimeout(Leg),
    /// The decode engine sent nothing for too long.
    DecodeStalled,
    /// Every way to recover that the policy allows was tried, or is not to be had now.
    Exhausted,
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The attempt is prepared: its bodies and ids are known.
    Prepared {
        /// Decode is to be sent at once, beside prefill.
        overlap: bool,
        /// The KV has a name before prefill answers, so it can be released even if that answer never comes.
        named: bool,
    },
    /// Prefill succeeded.
    PrefillAccepted {
        /// It holds KV for a decode engine to read.
        kv: bool,
        /// What decode was sent with beside it does not hold any more: send decode anew.
        anew: bool,
    },
    /// Prefill answered with an error of its own, which goes to the client as it is unless the request recovers.
    PrefillRefused(Again),
    /// No usable answer came from prefill, or the attempt could not be prepared.
    PrefillFailed(Again),
    /// Answers [`Command::AskLocal`].
    LocalGranted(bool),
    /// What prefill returned was enough to begin the client's answer. It is decode's all the same: it goes on with
    /// [`Command::AnswerDecode`], or is broken off. Only directly behind the command to send decode.
    AnswerBegun,
    /// The decode engine began a successful answer.
    DecodeStarted,
    /// The decode engine answered with an error of its own, which goes to the client as it is.
    DecodeRefused,
    /// First data of a successful decode answer: the KV was read.
    DecodeProduced,
    /// The decode answer is complete.
    DecodeEnded,
    /// The decode leg broke.
    DecodeFailed,
    /// The client is gone.
    ClientLeft,
    /// The release attempt ended; whether the engines took it.
    ReleaseEnded(bool),
    /// Time has passed; see [`Handoff::wake_at`](crate::Handoff::wake_at).
    Tick,
}

/// Which prefill engine an attempt goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// The one of the attempt before; of the first attempt, the primary.
    Same,
    /// The next candidate.
    Next,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Make an attempt ready: choose its ids, ask what must be known first. Replaces a preparation that still runs.
    Prepare(Target),
    /// Send the prefill leg.
    SendPrefill,
    /// Drop the prefill leg.
    CancelPrefill,
    /// This attempt is given up while another begins. Hand what is left of it to an [orphan](crate::Handoff::orphan).
    OrphanPrefill,
    /// Whether the decode engine may compute this prompt by itself; answer with [`Event::LocalGranted`].
    AskLocal,
    /// Send the decode leg: with what prefill returned, or beside prefill, or for a local prefill.
    SendDecode(Decode),
    /// Drop the decode leg.
    CancelDecode,
    /// Answer with the prefill engine's own response.
    AnswerPrefill,
    /// Begin the answer with the decode engine's response, or go on with it behind [`Event::AnswerBegun`], and pass on
    /// what comes.
    AnswerDecode,
    /// Answer with an error.
    AnswerError(Cause),
    /// The answer has begun and cannot be completed: break it off so that the client sees it was cut.
    BreakAnswer(Cause),
    /// Make one attempt to release the KV.
    Release,
    /// Give the running release attempt up.
    CancelRelease,
}

/// What a decode leg builds on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decode {
    /// What prefill returned.
    AfterPrefill,
    /// What is known before prefill answers.
    BesidePrefill,
    /// Nothing: it computes the prompt itself.
    Alone,
}

/// Up to [`Commands::MAX`] commands, in the order in which to follow them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Commands {
    list: [Option<Command>; Self::MAX],
    len: usize,
}

impl Commands {
    /// Most that one event leads to.
    pub const MAX: usize = 4;

    pub(crate) fn and(mut self, command: Command) -> Self {
        self.list[self.len] = Some(command);
        self.len += 1;
        self
    }

    pub(crate) fn and_if(self, condition: bool, command: Command) -> Self {
        if condition { self.and(command) } else { self }
    }
}

impl From<Command> for Commands {
    fn from(command: Command) -> Self {
        Self::default().and(command)
    }
}

impl IntoIterator for Commands {
    type Item = Command;
    type IntoIter = std::iter::Flatten<std::array::IntoIter<Option<Command>, { Self::MAX }>>;

    fn into_iter(self) -> Self::IntoIter {
        self.list.into_iter().flatten()
    }
}
