//! HMAC-SHA-256 (RFC 2104): proves that both ends of a stream know one secret without sending it.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// Bytes of a proof.
pub(super) const PROOF: usize = 32;

/// What is proven: `parts`, one after the other, under `secret`.
#[derive(Debug)]
pub(super) struct Proof(Hmac<Sha256>);

impl Proof {
    pub(super) fn of(secret: &[u8], parts: &[&[u8]]) -> Self {
        let mut mac = Hmac::new_from_slice(secret).expect("a key of any length will do");
        for part in parts {
            mac.update(part);
        }
        Self(mac)
    }

    /// As it is shown to the other side.
    pub(super) fn shown(self) -> [u8; PROOF] {
        self.0.finalize().into_bytes().into()
    }

    /// Whether that was shown, in a time that does not tell where it differs.
    pub(super) fn is(self, shown: &[u8]) -> bool {
        self.0.verify_slice(shown).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"))
    }

    #[test]
    fn the_published_vectors_come_out() {
        let short = Proof::of(b"Jefe", &[b"what do ya want ", b"for nothing?"]).shown();
        assert_eq!(hex(&short), "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
        let long = Proof::of(&[0xaa; 131], &[b"Test Using Larger Than Block-Size Key - Hash Key First"]);
        assert_eq!(hex(&long.shown()), "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54");
    }

    #[test]
    fn one_bit_more_or_less_makes_another_proof() {
        let proof = || Proof::of(b"secret", &[b"a"]);
        let shown = proof().shown();
        let mut other = shown;
        other[31] ^= 1;
        assert!(proof().is(&shown) && !proof().is(&other) && !proof().is(&shown[..31]) && !proof().is(b""));
    }
}
