"""Where do models for the engine tests come from, when nothing may be downloaded?

They are made on the spot: a tokenizer trained on PyTorch's own modules, Llama weights drawn from a seed.
What they say is noise; that they are served, streamed, counted and cut off as real models are is the point.
The noise is the same after every change of this repository, whose text is therefore not what trains them.
Runs on the interpreter that has vLLM, and imports nothing of Turnout:

    .venv-vllm/bin/python tests/engines/tiny_models.py OUT NAME=SEED[,TRAIT]... ...

Traits: `template` puts a system prompt in front, `sampling` has defaults of its own (what a preflight must
name); `damaged` has the weights of its seed, one layer of which is spoilt (what only answers show).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

#: Prose and code that only another version of PyTorch changes; `install.sh` pins it.
CORPUS = Path(torch.__file__).parent / "nn" / "modules"
END, TURN, TURN_END = "<|end|>", "<|turn|>", "<|turn-end|>"
VOCABULARY = 2048
LONGEST = 8192  # tokens: an answer can take ten seconds, so that a client can leave in its middle

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|turn|>' + message['role'] + '\n' + message['content'] + '<|turn-end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|turn|>assistant\n' }}{% endif %}"
)


#: The classic fault: a template that puts a system prompt of its own in front.
DRIFTED_TEMPLATE = "{{ '<|turn|>system\nYou are a pirate.<|turn-end|>\n' }}" + CHAT_TEMPLATE
DRIFTED_SAMPLING = {"temperature": 0.6, "top_k": 20, "do_sample": True}
TRAITS = {"template", "sampling", "damaged"}


def corpus() -> Iterator[str]:
    """The texts of CORPUS, in a fixed order."""
    for path in sorted(CORPUS.glob("*.py")):
        yield path.read_text(encoding="utf-8")


def tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE: any text, in any language, has tokens."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    bpe.train_from_iterator(
        corpus(),
        trainers.BpeTrainer(
            vocab_size=VOCABULARY,
            special_tokens=[END, TURN, TURN_END],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token=TURN_END,
        pad_token=END,
        model_max_length=LONGEST,
        chat_template=CHAT_TEMPLATE,
    )


def weights(seed: int, words: PreTrainedTokenizerFast, **sampling: object) -> LlamaForCausalLM:
    """A Llama with 0.4 million weights from `seed`: two seeds, two models that answer differently."""
    torch.manual_seed(seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(words),
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=2,  # a head of 32: the smallest that vLLM's CPU attention takes
            num_key_value_heads=2,
            max_position_embeddings=LONGEST,
            initializer_range=0.3,  # wide: the default makes all words nearly as likely
            tie_word_embeddings=False,
            bos_token_id=None,
            eos_token_id=words.eos_token_id,
            pad_token_id=words.pad_token_id,
            torch_dtype=torch.bfloat16,
        )
    ).to(torch.bfloat16)
    model.generation_config = GenerationConfig(
        eos_token_id=words.eos_token_id, pad_token_id=words.pad_token_id, **sampling
    )
    return model


def damage(model: LlamaForCausalLM) -> None:
    """Spoil the first layer as a broken download or a bad quantisation would: its shape is right, no more."""
    torch.manual_seed(99)
    spoilt = model.model.layers[0].mlp.down_proj.weight
    with torch.no_grad():
        spoilt.copy_(torch.randn_like(spoilt) * spoilt.std())


def main(arguments: list[str]) -> int:
    if len(arguments) < 2 or not all("=" in one for one in arguments[1:]):
        sys.stderr.write("usage: tiny_models.py OUT NAME=SEED[,TRAIT]... ...\n")
        return 2
    out, words = Path(arguments[0]), tokenizer()
    for name, _, made in (one.partition("=") for one in arguments[1:]):
        seed, *traits = made.split(",")
        if unknown := set(traits) - TRAITS:
            sys.stderr.write(f"no such trait: {', '.join(unknown)}\n")
            return 2
        words.chat_template = DRIFTED_TEMPLATE if "template" in traits else CHAT_TEMPLATE
        words.save_pretrained(out / name)
        model = weights(int(seed), words, **(DRIFTED_SAMPLING if "sampling" in traits else {}))
        if "damaged" in traits:
            damage(model)
        model.save_pretrained(out / name)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
