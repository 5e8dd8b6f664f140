//! Handoff through a store that both engines see: a prefill engine stores the blocks of its prompts, and any
//! engine loads the start of a prompt that it finds there.
//!
//! There is no handle and no duty: a prompt that is not there is computed. A request may say how much must be
//! there (`cache_hit_threshold`), and is otherwise declined instead of computed.

use crate::config::Role;
use crate::engine::Engine;
use crate::pool::BlockHold;
use crate::prompt::Prompt;

/// The name of a block in the store. Engines with blocks of other sizes must not find it.
fn entry(engine: &Engine, name: u64) -> String {
    format!("kv-{name:016x}-{}", engine.pool.block_bytes())
}

/// Tokens of a prompt that need no computing: known to this engine or in the store.
pub(crate) fn available(engine: &Engine, prompt: &Prompt<'_>) -> usize {
    let stored =
        engine.config().shared_store.as_ref().map_or(0, |store| {
            prompt.names.iter().take_while(|name| store.has(&entry(engine, **name))).count()
        });
    let stored = stored * engine.config().block_size as usize;
    stored.max(prompt.known(engine))
}

/// Fills the front of `hold` from the store; returns the tokens that came.
pub(crate) fn load(engine: &Engine, prompt: &Prompt<'_>, hold: &mut BlockHold) -> usize {
    let Some(store) = &engine.config().shared_store else {
        return 0;
    };
    let mut loaded = 0;
    for name in &prompt.names {
        // A block of another size cannot be there but by somebody else's hand; it is as good as none.
        let block = store.get(&entry(engine, *name)).filter(|block| block.len() == engine.pool.block_bytes());
        let Some(block) = block else { break };
        hold.write_block(loaded, &block);
        loaded += 1;
    }
    engine.stats.store_loaded.add(loaded as u64);
    loaded * engine.config().block_size as usize
}

/// Stores the prompt's full blocks, where this engine's role is to.
pub(crate) fn save(engine: &Engine, prompt: &Prompt<'_>, hold: &BlockHold) {
    let Some(store) = engine.config().shared_store.as_ref().filter(|_| engine.config().role != Role::Decode)
    else {
        return;
    };
    for (index, name) in prompt.names.iter().enumerate() {
        let entry = entry(engine, *name);
        if !store.has(&entry) {
            store.put(&entry, &hold.copy_block(index));
            engine.stats.store_saved.inc();
        }
    }
}
