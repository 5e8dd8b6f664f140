//! HMAC-SHA-256 (RFC 2104): proves that both ends of a stream know one secret without sending it.

use sha2::{Digest, Sha256};

const BLOCK: usize = 64;

/// Bytes of a proof.
pub(super) const PROOF: usize = 32;

/// The HMAC of `parts`, one after the other.
pub(super) fn hmac(secret: &[u8], parts: &[&[u8]]) -> [u8; PROOF] {
    let mut key = [0; BLOCK];
    if secret.len() > BLOCK {
        key[..PROOF].copy_from_slice(&Sha256::digest(secret));
    } else {
        key[..secret.len()].copy_from_slice(secret);
    }
    let mut inner = Sha256::new_with_prefix(key.map(|byte| byte ^ 0x36));
    for part in parts {
        inner.update(part);
    }
    let outer = Sha256::new_with_prefix(key.map(|byte| byte ^ 0x5c));
    outer.chain_update(inner.finalize()).finalize().into()
}

/// Whether two proofs are the same, in a time that does not tell where they differ.
pub(super) fn same(one: &[u8; PROOF], other: &[u8; PROOF]) -> bool {
    let differ = one.iter().zip(other).fold(0, |differ, (a, b)| differ | (a ^ b));
    std::hint::black_box(differ) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"))
    }

    #[test]
    fn the_published_vectors_come_out() {
        let short = hmac(b"Jefe", &[b"what do ya want ", b"for nothing?"]);
        assert_eq!(hex(&short), "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
        let long = hmac(&[0xaa; 131], &[b"Test Using Larger Than Block-Size Key - Hash Key First"]);
        assert_eq!(hex(&long), "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54");
    }

    #[test]
    fn one_bit_makes_another_proof() {
        let proof = hmac(b"secret", &[b"a"]);
        let mut other = proof;
        other[31] ^= 1;
        assert!(same(&proof, &proof) && !same(&proof, &other));
    }
}
