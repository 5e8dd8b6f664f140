//! How two sides of a control link meet: versions, then, if there is a secret, each proves to know it. Numbers drawn for
//! this link are part of the proofs, so that neither can be used again.

use std::io::{BufRead, Write};

use kvferry_bench_common::Result;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{MAX_HELLO, PROTOCOL};
use crate::line;

/// What both sides of a deployment's bench know.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl Secret {
    /// These words, without white space around them.
    ///
    /// # Errors
    /// When they are too short to be worth anything.
    pub fn new(words: &str) -> Result<Self> {
        let words = words.trim();
        if words.len() < 16 {
            return Err(
                "a secret of fewer than 16 bytes; make one with: head -c 24 /dev/urandom | base64".into()
            );
        }
        Ok(Self(words.to_owned()))
    }

    /// As fabrics take it.
    pub fn words(&self) -> &str {
        &self.0
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Greeting {
    kvferry_bench: u32,
    nonce: [u8; 16],
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Proof {
    /// Nothing to prove: this side has no secret.
    None,
    Hmac([u8; 32]),
    /// The other side is not talked to.
    Refused(String),
}

/// HMAC-SHA-256 (RFC 2104).
fn hmac(secret: &Secret, parts: &[&[u8]]) -> [u8; 32] {
    let mut key = [0; 64];
    if secret.0.len() > key.len() {
        key[..32].copy_from_slice(&Sha256::digest(&secret.0));
    } else {
        key[..secret.0.len()].copy_from_slice(secret.0.as_bytes());
    }
    let mut inner = Sha256::new_with_prefix(key.map(|byte| byte ^ 0x36));
    for part in parts {
        inner.update(part);
    }
    Sha256::new_with_prefix(key.map(|byte| byte ^ 0x5c)).chain_update(inner.finalize()).finalize().into()
}

/// In a time that does not tell where they differ.
fn same(one: &[u8; 32], other: &[u8; 32]) -> bool {
    std::hint::black_box(one.iter().zip(other).fold(0, |differ, (a, b)| differ | (a ^ b))) == 0
}

/// Which side somebody is: a proof of one is none of the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Server,
    Client,
}

impl Side {
    const fn label(self) -> &'static [u8] {
        match self {
            Self::Server => b"kvferry-bench server",
            Self::Client => b"kvferry-bench client",
        }
    }

    const fn other(self) -> Self {
        match self {
            Self::Server => Self::Client,
            Self::Client => Self::Server,
        }
    }
}

/// Greets the other side, as `side`.
///
/// # Errors
/// When it speaks another version, does not know the secret, or says something else.
pub(super) fn meet(
    side: Side,
    from: &mut impl BufRead,
    to: &mut impl Write,
    secret: Option<&Secret>,
) -> Result<()> {
    let mine = *uuid::Uuid::new_v4().as_bytes();
    line::write(to, &Greeting { kvferry_bench: PROTOCOL, nonce: mine })?;
    let theirs: Greeting = line::read(from, MAX_HELLO)?
        .ok_or("the other side has hung up; is it kvferry-bench, and is it free?")?;
    if theirs.kvferry_bench != PROTOCOL {
        let words = format!(
            "one side speaks version {} of the bench's protocol, the other {PROTOCOL}; run the same release on both",
            theirs.kvferry_bench
        );
        line::write(to, &Proof::Refused(words.clone()))?;
        return Err(words.into());
    }
    let (server, client) = if side == Side::Server { (mine, theirs.nonce) } else { (theirs.nonce, mine) };
    let proof = |side: Side| secret.map(|secret| hmac(secret, &[side.label(), &server, &client]));
    // The client proves first: a server shows a stranger nothing that could be guessed at offline.
    if side == Side::Client {
        line::write(to, &proof(side).map_or(Proof::None, Proof::Hmac))?;
    }
    let answer: Proof =
        line::read(from, MAX_HELLO)?.ok_or("the other side has hung up instead of proving itself")?;
    let right = match (proof(side.other()), &answer) {
        (_, Proof::Refused(why)) => return Err(why.clone().into()),
        (None, Proof::None) => true,
        (Some(right), Proof::Hmac(proof)) => same(&right, proof),
        _ => false,
    };
    if !right {
        let words = "the two sides do not have the same secret; give both the same --secret-file";
        line::write(to, &Proof::Refused(words.to_owned()))?;
        return Err(words.into());
    }
    if side == Side::Server {
        line::write(to, &proof(side).map_or(Proof::None, Proof::Hmac))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_published_vector_comes_out() {
        let hex =
            |bytes: [u8; 32]| bytes.iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"));
        let proof = hmac(&Secret("Jefe".into()), &[b"what do ya want ", b"for nothing?"]);
        assert_eq!(hex(proof), "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
    }

    #[test]
    fn a_short_secret_is_refused_and_none_is_shown() {
        assert!(Secret::new("  hush hush  \n").is_err());
        assert!(!format!("{:?}", Secret::new("0123456789abcdef").unwrap()).contains("0123"));
    }
}
