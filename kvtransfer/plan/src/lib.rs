//! Which bytes of one engine's KV cache go where in another's, in the fewest contiguous runs. Pure: no I/O, no clock,
//! nothing of sockets or memory, so that millions of cases can be tried against a naive copy.
//!
//! A *geometry* is what one rank says about its cache. A byte of it is found by adding up strides:
//!
//! ```text
//!   region ──┬── offset ──▶ layer 0             layer 1             layer 2 ...           (one tensor, or one each)
//!            │             ┌─────────────────┐ ┌─────────────────┐
//!            │             │ K        V      │ │ K        V      │   planes: halves, per block, or side by side
//!            │             └┬────────────────┘ └─────────────────┘
//!            │              ▼   ◀── block stride ──▶
//!            │             ┌──────────┬──────────┬──────────┬─────   block ids name these; a sequence's blocks
//!            │             │ block 0  │ block 1  │ block 2  │ ...    are a list of ids, in any order
//!            │             └┬─────────┴──────────┴──────────┴─────
//!            │              ▼
//!            │     HND: h0 [t0 t1 .. t15] h1 [t0 t1 .. t15] ...      head stride > token stride
//!            │     NHD: t0 [h0 h1 .. h7]  t1 [h0 h1 .. h7]  ...      token stride > head stride
//!            │               └─ one head of one token: head_dim × dtype bytes, always contiguous
//!
//!   byte = tensor(layer) + plane·plane_stride + block·block_stride + head·head_stride + token·token_stride
//! ```
//!
//! Two of them make a [`Pairing`], or a [`Mismatch`] that says what differs. After that, [`Pairing::plan`] turns the block
//! lists of a sequence and a range of its tokens into [`Move`]s:
//!
//! - every byte of every wanted token that the source rank owes the destination rank, exactly once, and no other byte;
//! - in ascending order of the destination, no two overlapping, no two that could be one. Since destinations are disjoint,
//!   each byte has at most one successor it can be joined with, so that this is the least number there is.
//!
//! ```
//! use kvferry_plan::{Blocks, Layout, Pairing, Share, Tokens, models::{Model, Rank}};
//!
//! let model = Model::named("llama-3.1-70b").expect("a known model");
//! let rank = Rank { layout: Layout::HND, share: Share::WHOLE, layers: 0..80, block_size: 16, blocks: 1024 };
//! let (cache, _) = model.geometry(&rank)?;
//! let pairing = Pairing::new(&cache, &cache)?;
//! let (there, here): (Vec<u32>, Vec<u32>) = ((0..512).collect(), (300..812).collect());
//! let moves = pairing.plan(&[Blocks::all(&there)], &[Blocks::all(&here)], Tokens::all(8192), 100_000)?;
//! assert_eq!(moves.len(), 160, "keys and values of 80 layers, not 81,920 blocks");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! It costs what it yields: runs of blocks, heads, planes and layers are found as strides first, and only what is not
//! contiguous on both sides is ever visited piece by piece (`cargo run --release -p kvferry-plan --example plan_cost`).

mod attention;
mod cut;
mod error;
mod geometry;
mod layout;
pub mod models;
mod pairing;
mod place;
mod plan;
mod share;
mod slab;
mod walk;

pub use attention::{Attention, Dtype, Planes};
pub use cut::{Blocks, Tokens};
pub use error::{Flaw, Mismatch, Side, Unplannable};
pub use geometry::{Geometry, Group, MAX_EXTENT, MAX_GROUPS, MAX_LAYERS, Packed, Tensors};
pub use layout::{Axis, Layout, Strides};
pub use pairing::Pairing;
pub use place::{Move, Place};
pub use share::Share;
