"""`copy`: a language model repeats what it has read (Katharopoulos et al., ICML 2020), in sequences made on the fly."""

from dataclasses import dataclass, field
from typing import Any, Optional
from zlib import crc32

import numpy as np
import torch
from fairseq.data import Dictionary, FairseqDataset
from fairseq.data.monolingual_dataset import collate
from fairseq.dataclass import FairseqDataclass
from fairseq.tasks import register_task

from momentum_fairseq.tasks.every_example import EveryExampleTask

SHORTEST = 4  # 0w0w with one symbol in w


class CopyDataset(FairseqDataset):
    """Sequences 0w0w: the separator 0, a random word w of 1 to `max_tokens / 2 − 1` symbols, the separator, the same word.

    The length of w and each of its symbols are uniform. What is predicted is the second w: the separator before it could only
    be guessed. Every sequence follows from the key, the epoch and its own number alone, so all workers and a training that is
    resumed see the same.

    Args:
        dictionary: the separator first, then the symbols. key: what this data set is drawn from.
        sequences: how many there are in an epoch. max_tokens: length of the longest.
        fresh: whether each epoch has other sequences.
    """

    # Processes that load data would go on with the epoch that they were started in.
    can_reuse_epoch_itr_across_epochs = False

    def __init__(
        self, dictionary: Dictionary, key: tuple[int, ...], sequences: int, max_tokens: int, *, fresh: bool
    ) -> None:
        self.dictionary, self.key, self.sequences, self.max_tokens, self.fresh = dictionary, key, sequences, max_tokens, fresh
        self.epoch = 1

    def set_epoch(self, epoch: int) -> None:
        """fairseq says so at the start of each epoch."""
        self.epoch = epoch if self.fresh else 1

    def __len__(self) -> int:
        return self.sequences

    def __getitem__(self, index: int) -> dict[str, Any]:
        """`source` and `target`, int64 `[N]`, N ≤ max_tokens − 1: the next token at each position, padding where no loss is."""
        random = np.random.default_rng((*self.key, self.epoch, int(index)))
        length = random.integers(1, self.max_tokens // 2)
        symbols = self.dictionary.nspecial + 1
        word = torch.from_numpy(random.integers(symbols, len(self.dictionary), length))
        half = torch.cat([word.new_tensor([symbols - 1]), word])
        source = torch.cat([half, half[:-1]])
        target = torch.cat([torch.full_like(half, self.dictionary.pad()), word])
        return {"id": index, "source": source, "target": target}

    def collater(self, samples: list[dict[str, Any]]) -> dict[str, Any]:
        """A batch, padded on the right; `ntokens` are those that are predicted."""
        batch = collate(samples, self.dictionary.pad(), self.dictionary.eos())
        if batch:
            batch["ntokens"] = int(batch["target"].ne(self.dictionary.pad()).sum())
        return batch

    def num_tokens(self, index: int) -> int:
        """The most that a sequence can have: batches don't depend on the epoch in which they are made."""
        return self.max_tokens - 1

    def num_tokens_vec(self, indices: np.ndarray) -> np.ndarray:
        """As `num_tokens`, int64 `[n]` for `[n]`."""
        return np.full(len(indices), self.max_tokens - 1)

    def size(self, index: int) -> int:
        """As `num_tokens`."""
        return self.max_tokens - 1


@dataclass
class CopyTaskConfig(FairseqDataclass):
    symbols: int = field(default=10, metadata={"help": "symbols that a word is made of, besides the separator 0"})
    tokens_per_sample: int = field(default=128, metadata={"help": "length of the longest sequence 0w0w"})
    train_sequences: int = field(default=6400, metadata={"help": "sequences in an epoch of training, fresh ones in each"})
    valid_sequences: int = field(
        default=640, metadata={"help": "sequences in every other set, the same at each validation and for every seed"}
    )
    max_target_positions: Optional[int] = "${task.tokens_per_sample}"  # noqa: UP045 (fairseq reads this form alone)
    seed: int = "${common.seed}"
    train_subset: str = "${dataset.train_subset}"


@register_task("copy", dataclass=CopyTaskConfig)
class CopyTask(EveryExampleTask):
    """Nothing lies on disk; any subset that --valid-subset names is drawn from its name."""

    cfg: CopyTaskConfig

    def __init__(self, cfg: CopyTaskConfig) -> None:
        super().__init__(cfg)
        self.dictionary = Dictionary()
        for symbol in range(cfg.symbols + 1):
            self.dictionary.add_symbol(str(symbol))

    @classmethod
    def setup_task(cls, cfg: CopyTaskConfig, **kwargs: Any) -> "CopyTask":
        """The task for a config.

        Raises:
            ValueError: an option out of range.
        """
        for name, least in (("symbols", 2), ("tokens_per_sample", SHORTEST), ("train_sequences", 1), ("valid_sequences", 1)):
            if getattr(cfg, name) < least:
                raise ValueError(f"--{name.replace('_', '-')} must be at least {least}, got {getattr(cfg, name)}")
        return cls(cfg)

    def load_dataset(self, split: str, combine: bool = False, task_cfg: Any = None, **kwargs: Any) -> None:
        """Make a data set; that of the training follows from --seed, another from its name alone."""
        training = split == self.cfg.train_subset
        self.datasets[split] = CopyDataset(
            self.dictionary,
            (1, self.cfg.seed) if training else (0, crc32(split.encode())),
            self.cfg.train_sequences if training else self.cfg.valid_sequences,
            self.cfg.tokens_per_sample,
            fresh=training,
        )

    def max_positions(self) -> int:
        """The longest sequence, in tokens."""
        return self.cfg.tokens_per_sample

    @property
    def source_dictionary(self) -> Dictionary:
        """0, the separator, and the symbols."""
        return self.dictionary

    @property
    def target_dictionary(self) -> Dictionary:
        """As the source dictionary."""
        return self.dictionary
