"""Makes data/tokenizer.json: a byte-level BPE of 1,536 ids, trained on documents of the world.

Digits stand alone, so that sums can be learnt. The control tokens are DeepSeek's: the first three are special,
the others are not, as in DeepSeek's tokenizers.
"""

import json
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from render import BOS, CONTROL, EOS, PAD, document, plain
from world.common import Source

DATA = Path(__file__).parent.parent / "data"
VOCABULARY = 1536
DOCUMENTS = 40_000


def main() -> None:
    source = Source(7, examination=False)
    texts = [plain(document(source)) for _ in range(DOCUMENTS)]
    for token in [BOS, EOS, *CONTROL]:
        texts = [text.replace(token, "\n") for text in texts]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(r"\p{N}"), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(CONTROL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in (BOS, EOS, PAD)],
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in CONTROL])
    assert tokenizer.get_vocab_size() == VOCABULARY
    tokenizer.save(str(DATA / "tokenizer.json"))
    config = {
        "add_bos_token": True, "add_eos_token": False, "bos_token": BOS, "eos_token": EOS, "pad_token": PAD,
        "model_max_length": 65536, "tokenizer_class": "PreTrainedTokenizerFast",
    }
    (DATA / "tokenizer_config.json").write_text(json.dumps(config, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
