"""Makes the demo model's tokenizer: data/tokenizer.json and data/tokenizer_config.json.

    pip install tokenizers==0.22.1 && python crates/demo-model/tokenizer.py

A byte-level BPE of 1,024 ids, trained on the repository's own documents, with DeepSeek's control
tokens: the first three are special, the others are not, as in DeepSeek's tokenizers.
"""

import json
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

CRATE = Path(__file__).parent
REPOSITORY = CRATE.parent.parent
SOURCES = [CRATE / "corpus.txt", REPOSITORY / "config" / "default.toml"]
VOCABULARY = 1024
BOS, EOS, PAD = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜▁pad▁｜>"
CONTROL = ["<｜User｜>", "<｜Assistant｜>", "<think>", "</think>"] + [
    f"<｜tool▁{name}｜>"
    for name in [
        "calls▁begin", "calls▁end", "call▁begin", "call▁end",
        "outputs▁begin", "outputs▁end", "output▁begin", "output▁end", "sep",
    ]
]


def main() -> None:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(CONTROL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in (BOS, EOS, PAD)],
        show_progress=False,
    )
    tokenizer.train_from_iterator((source.read_text(encoding="utf-8") for source in SOURCES), trainer)
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in CONTROL])
    data = CRATE / "data"
    tokenizer.save(str(data / "tokenizer.json"))
    config = {
        "add_bos_token": True,
        "add_eos_token": False,
        "bos_token": BOS,
        "eos_token": EOS,
        "pad_token": PAD,
        "model_max_length": 8192,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    (data / "tokenizer_config.json").write_text(json.dumps(config, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
