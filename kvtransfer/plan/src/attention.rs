//! What one layer's KV cache holds for a token, whatever the ranks and the memory order: both sides must agree on it.

use std::fmt;

/// The numbers' type. Two types of the same size are still two: bytes of one read as the other are a wrong answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dtype {
    /// 32 bits.
    F32,
    /// 16 bits, IEEE.
    F16,
    /// 16 bits with the exponent of 32.
    Bf16,
    /// 8 bits, 4 of them exponent.
    F8E4m3,
    /// 8 bits, 5 of them exponent.
    F8E5m2,
    /// 8 bits, scaled.
    I8,
    /// Bytes whose meaning the engines agree on (packed latents with their scales, for one).
    Bytes,
}

impl Dtype {
    /// Bytes of one.
    pub const fn bytes(self) -> u64 {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
            Self::F8E4m3 | Self::F8E5m2 | Self::I8 | Self::Bytes => 1,
        }
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "float32",
            Self::F16 => "float16",
            Self::Bf16 => "bfloat16",
            Self::F8E4m3 => "fp8_e4m3",
            Self::F8E5m2 => "fp8_e5m2",
            Self::I8 => "int8",
            Self::Bytes => "bytes",
        })
    }
}

/// What is kept for a head of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Planes {
    /// A key and a value, of one size.
    KeyValue,
    /// One vector from which both are made (MLA).
    Latent,
}

impl Planes {
    /// 2 or 1.
    pub const fn count(self) -> u32 {
        match self {
            Self::KeyValue => 2,
            Self::Latent => 1,
        }
    }
}

impl fmt::Display for Planes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::KeyValue => "keys and values",
            Self::Latent => "latents",
        })
    }
}

/// The attention of a layer, as its cache sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Attention {
    /// Keys and values, or latents.
    pub planes: Planes,
    /// KV heads of the whole model, over all ranks; 1 for latents.
    pub heads: u32,
    /// Numbers of one head of one plane.
    pub head_dim: u32,
    /// Their type.
    pub dtype: Dtype,
    /// Tokens that a token sees, itself included, if not all that came before it.
    pub window: Option<u32>,
}

impl Attention {
    /// Keys and values of `heads` KV heads (GQA, MQA, MHA), seeing all tokens.
    pub const fn grouped(heads: u32, head_dim: u32, dtype: Dtype) -> Self {
        Self { planes: Planes::KeyValue, heads, head_dim, dtype, window: None }
    }

    /// One latent vector of `dim` numbers a token (MLA), the same on every TP rank.
    pub const fn latent(dim: u32, dtype: Dtype) -> Self {
        Self { planes: Planes::Latent, heads: 1, head_dim: dim, dtype, window: None }
    }

    /// The same, seeing only the last `window` tokens.
    #[must_use]
    pub const fn sliding(self, window: u32) -> Self {
        Self { window: Some(window), ..self }
    }

    /// Bytes of one head of one token of one plane: the least that is always contiguous.
    pub const fn head_bytes(&self) -> u64 {
        self.head_dim as u64 * self.dtype.bytes()
    }

    /// Bytes of one token in one layer, over all ranks.
    pub const fn token_bytes(&self) -> u64 {
        self.planes.count() as u64 * self.heads as u64 * self.head_bytes()
    }

    /// The first token that is still seen by the token at position `length`.
    pub(crate) const fn sees_from(&self, length: u64) -> u64 {
        match self.window {
            None => 0,
            // The token at `length` is itself one of the window's.
            Some(window) => length.saturating_add(1).saturating_sub(window as u64),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_counts_the_token_that_looks() {
        let sliding = Attention::grouped(8, 64, Dtype::Bf16).sliding(128);
        assert_eq!(sliding.sees_from(1000), 873, "127 cached tokens and itself");
        assert_eq!(sliding.sees_from(127), 0);
        assert_eq!(sliding.sees_from(128), 1);
        assert_eq!(Attention::grouped(8, 64, Dtype::Bf16).sees_from(1000), 0);
    }
}
