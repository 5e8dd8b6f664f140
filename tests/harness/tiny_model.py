"""Makes a tiny language model with nothing from a model hub: random weights that are the same on every machine.

It exists so that real vLLM engines can run in seconds on two CPU cores. The weights are drawn large enough that the
next token depends on the whole prompt; with weights near zero every prompt gives much the same answer, and a test
that compares answers would not notice missing KV. One token's KV is `KV_BYTES_PER_TOKEN` bytes.

Needs torch, safetensors and tokenizers: run it with the interpreter of `.venv` (`python tiny_model.py DIR`).
"""

import json
import os
import shutil
import sys
from pathlib import Path

HIDDEN = 256
INTERMEDIATE = 512
LAYERS = 4
HEADS = 4
HEAD_DIM = HIDDEN // HEADS
VOCAB = 1024
MAX_POSITIONS = 4096
# Half precision would do for the size, but its roundings depend on how a prompt is cut into batches: one answer in
# sixty changed by that alone. With float32 only wrong KV changes an answer.
DTYPE = "float32"
BYTES_PER_VALUE = 4
KV_BYTES_PER_TOKEN = LAYERS * 2 * HEADS * HEAD_DIM * BYTES_PER_VALUE

# Part of the folder's stamp: a change of anything that shapes the files must change it, or an old model is reused.
RECIPE = 4

SPECIAL = ["<|bos|>", "<|eos|>", "<|user|>", "<|assistant|>", "<|system|>", "<|tools|>", "<|end|>"]

CHAT_TEMPLATE = (
    "<|bos|>"
    "{%- if tools %}<|tools|>{{ tools | tojson }}<|end|>{% endif -%}"
    "{%- for m in messages -%}"
    "<|{{ m['role'] if m['role'] in ['user', 'assistant', 'system'] else 'user' }}|>"
    "{%- if m['content'] is string -%}{{ m['content'] }}"
    "{%- else -%}{%- for p in m['content'] or [] -%}{{ p['text'] }}{%- endfor -%}{%- endif -%}"
    "<|end|>"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}<|assistant|>{%- endif -%}"
)

# The words that the tokenizer learns as tokens of their own, and the only tokens that the model ever prefers: answers
# are word salad, but salad that a terminal can show and two of which can be compared as text.
WORDS = Path(__file__).with_name("words.txt").read_text().split()


def make(folder: Path) -> None:
    """Writes the model to `folder`, all of it or nothing."""
    scratch = folder.with_name(folder.name + f".{os.getpid()}")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    write_config(scratch)
    write_weights(scratch, write_tokenizer(scratch))
    (scratch / "recipe").write_text(str(RECIPE))
    shutil.rmtree(folder, ignore_errors=True)
    scratch.rename(folder)


def is_made(folder: Path) -> bool:
    """Whether `folder` holds a complete model of this recipe."""
    stamp = folder / "recipe"
    return stamp.is_file() and stamp.read_text() == str(RECIPE)


def write_config(folder: Path) -> None:
    """The shape of the network, as transformers and vLLM read it."""
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": HIDDEN,
        "intermediate_size": INTERMEDIATE,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS,
        "head_dim": HEAD_DIM,
        "vocab_size": VOCAB,
        "max_position_embeddings": MAX_POSITIONS,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "attention_bias": False,
        "torch_dtype": DTYPE,
        "bos_token_id": SPECIAL.index("<|bos|>"),
        "eos_token_id": SPECIAL.index("<|eos|>"),
    }
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    generation = {"bos_token_id": config["bos_token_id"], "eos_token_id": config["eos_token_id"]}
    (folder / "generation_config.json").write_text(json.dumps(generation))


def write_tokenizer(folder: Path) -> list[int]:
    """A byte-level BPE tokenizer: every byte is in its alphabet, so that any text can be a prompt.

    Gives the ids of the tokens that are whole words.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([" ".join(["", *WORDS])], trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|bos|>",
        "eos_token": "<|eos|>",
        "model_max_length": MAX_POSITIONS,
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=1))
    words = {f" {word}" for word in WORDS}
    return [i for i in range(tokenizer.get_vocab_size()) if tokenizer.decode([i]) in words]


def write_weights(folder: Path, preferred: list[int]) -> None:
    """Seeded random weights; queries, keys and values twice as large, so that attention is sharp.

    The output rows of all but the preferred tokens are zero: their scores are 0, and the best score never is.
    """
    import torch
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(20_032)

    def matrix(rows: int, columns: int, scale: float = 1.0) -> torch.Tensor:
        drawn = torch.randn(rows, columns, generator=generator)
        return drawn * (scale * columns**-0.5)

    ones = torch.ones(HIDDEN)
    head = torch.zeros(VOCAB, HIDDEN)
    head[preferred] = matrix(len(preferred), HIDDEN)
    weights = {
        "model.embed_tokens.weight": torch.randn(VOCAB, HIDDEN, generator=generator),
        "model.norm.weight": ones.clone(),
        "lm_head.weight": head,
    }
    for layer in range(LAYERS):
        at = f"model.layers.{layer}"
        for name in ("q_proj", "k_proj", "v_proj"):
            weights[f"{at}.self_attn.{name}.weight"] = matrix(HEADS * HEAD_DIM, HIDDEN, scale=2.0)
        weights[f"{at}.self_attn.o_proj.weight"] = matrix(HIDDEN, HEADS * HEAD_DIM)
        weights[f"{at}.mlp.gate_proj.weight"] = matrix(INTERMEDIATE, HIDDEN)
        weights[f"{at}.mlp.up_proj.weight"] = matrix(INTERMEDIATE, HIDDEN)
        weights[f"{at}.mlp.down_proj.weight"] = matrix(HIDDEN, INTERMEDIATE)
        weights[f"{at}.input_layernorm.weight"] = ones.clone()
        weights[f"{at}.post_attention_layernorm.weight"] = ones.clone()
    save_file(weights, str(folder / "model.safetensors"), metadata={"format": "pt"})


if __name__ == "__main__":
    destination = Path(sys.argv[1]) if len(sys.argv) == 2 else sys.exit("usage: tiny_model.py DIR")
    if not is_made(destination):
        make(destination)
