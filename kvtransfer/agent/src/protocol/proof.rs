//! Proof of knowing the deployment's secret, without saying it: HMAC-SHA-256 over both greetings, which hold both nonces,
//! names and epochs. The role is in it, so that nobody's proof can be sent back to it.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// Bytes of a proof.
pub(crate) const LEN: usize = 32;

/// Which side of a connection somebody is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// It connected.
    Caller,
    /// It was connected to.
    Called,
}

impl Role {
    pub(crate) const fn other(self) -> Self {
        match self {
            Self::Caller => Self::Called,
            Self::Called => Self::Caller,
        }
    }
}

fn mac(secret: &[u8], role: Role, callers: &[u8], calleds: &[u8]) -> Hmac<Sha256> {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).expect("HMAC takes a key of any length");
    mac.update(match role {
        Role::Caller => b"kvferry agent caller",
        Role::Called => b"kvferry agent called",
    });
    for greeting in [callers, calleds] {
        mac.update(&(greeting.len() as u64).to_le_bytes());
        mac.update(greeting);
    }
    mac
}

/// The proof of the side that is `role`, over the caller's greeting and the called one's.
pub(crate) fn prove(secret: &[u8], role: Role, callers: &[u8], calleds: &[u8]) -> [u8; LEN] {
    mac(secret, role, callers, calleds).finalize().into_bytes().into()
}

/// Whether `proof` is that; in a time that does not tell where it differs.
pub(crate) fn proves(secret: &[u8], role: Role, callers: &[u8], calleds: &[u8], proof: &[u8]) -> bool {
    mac(secret, role, callers, calleds).verify_slice(proof).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proof_is_of_one_secret_one_role_and_these_greetings_in_this_order() {
        let proof = prove(b"secret", Role::Caller, b"a", b"b");
        assert!(proves(b"secret", Role::Caller, b"a", b"b", &proof));
        assert!(!proves(b"Secret", Role::Caller, b"a", b"b", &proof));
        assert!(!proves(b"secret", Role::Called, b"a", b"b", &proof), "sent back to whoever made it");
        assert!(!proves(b"secret", Role::Caller, b"b", b"a", &proof));
        assert!(
            !proves(b"secret", Role::Caller, b"ab", b"", &proof),
            "where one ends and the other begins counts"
        );
        assert!(!proves(b"secret", Role::Caller, b"a", b"b", &proof[..31]));
        assert!(!proves(b"secret", Role::Caller, b"a", b"b", b""));
    }
}
