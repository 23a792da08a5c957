"""`lra`: classify long sequences (Long Range Arena, Tay et al., ICLR 2021; protocol of Xiong et al., AAAI 2021)."""

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Optional

import numpy as np
import torch
import torch.nn.functional as F
from fairseq.data import FairseqDataset
from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from fairseq.tasks import register_task
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from momentum_fairseq.data.labelled_sequences import LabelledSequences, read_meta
from momentum_fairseq.tasks.every_example import EveryExampleTask

logger = logging.getLogger(__name__)

PAD = 0  # token t of the data is t + 1 in a batch, so that no token is taken for padding
SPLIT_ON_DISK = {"valid": "dev"}  # fairseq validates on `valid`


class LraSet(NamedTuple):
    """One of the five sets. max_positions: length of the longest sequence; towers: sequences that an example has."""

    max_positions: int
    towers: int = 1


LRA_TASKS = {
    "listops": LraSet(2000),
    "text": LraSet(4000),
    "retrieval": LraSet(4000, towers=2),
    "image": LraSet(1024),
    "pathfinder": LraSet(1024),
}


def even_lengths(lengths: np.ndarray | int, longest: int) -> np.ndarray:
    """Lengths up to `longest`, rounded up to one of 16 between two powers of two, by a sixteenth at most, and not beyond it.

    Where every batch has a length of its own, tensors seldom fit into the memory that others have left, and more of it is taken
    as long as the training goes on.
    """
    bits = np.frexp(lengths)[1]
    step = 1 << np.maximum(bits - 5, 0).astype(np.int64)
    return np.minimum(-(-lengths // step) * step, longest)


class LraDataset(FairseqDataset):
    """A split whose sequences end at `max_positions`.

    Examples of like length share a batch; which of them do is drawn anew in each epoch, from the seed and the epoch alone, so a
    training that is resumed sees the same.

    Attributes:
        sizes: int64 `[n]`, tokens of the longest sequence of each example. longest: their largest, which no batch is padded
            beyond. padded_sizes: int64 `[n]`, the `even_lengths` of the sizes. cut: how many examples are longer on disk.
    """

    can_reuse_epoch_itr_across_epochs = False  # each epoch has batches of its own

    def __init__(self, sequences: LabelledSequences, max_positions: int) -> None:
        self.sequences, self.max_positions = sequences, max_positions
        self.sizes = np.minimum(sequences.sizes, max_positions)
        self.longest = int(self.sizes.max(initial=0))
        self.padded_sizes = even_lengths(self.sizes, self.longest)
        self.cut = int((sequences.sizes > max_positions).sum())

    def __len__(self) -> int:
        return len(self.sequences)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """`sequences`, int64 `[N]` each, none of them `PAD`; `label`, an int."""
        *sequences, label = self.sequences[int(index)]
        return {"id": int(index), "sequences": [tokens[: self.max_positions] + 1 for tokens in sequences], "label": label}

    def collater(self, samples: list[dict[str, Any]]) -> dict[str, Any]:
        """A batch, padded on the right to one of the `even_lengths`; `ntokens` are real ones.

        Empty for no samples: fairseq evens workers out with those.
        """
        if not samples:
            return {}
        towers = zip(*(sample["sequences"] for sample in samples), strict=True)
        return {
            "id": torch.tensor([sample["id"] for sample in samples]),
            "net_input": {"sequences": [self._pad(tower) for tower in towers]},
            "target": torch.tensor([sample["label"] for sample in samples]),
            "nsentences": len(samples),
            "ntokens": sum(len(tokens) for sample in samples for tokens in sample["sequences"]),
        }

    def num_tokens(self, index: int) -> int:
        """What an example counts towards --max-tokens: the length that its longest sequence is padded to."""
        return int(self.padded_sizes[index])

    def num_tokens_vec(self, indices: np.ndarray) -> np.ndarray:
        """As `num_tokens`, int64 `[n]` for `[n]`."""
        return self.padded_sizes[indices]

    def size(self, index: int) -> int:
        """Tokens of its longest sequence."""
        return int(self.sizes[index])

    def _pad(self, sequences: tuple[Tensor, ...]) -> Tensor:
        padded = pad_sequence(sequences, batch_first=True, padding_value=PAD)
        more = int(even_lengths(padded.shape[1], self.longest)) - padded.shape[1]
        return F.pad(padded, (0, more), value=PAD)

    def ordered_indices(self) -> np.ndarray:
        """By length, equal ones in an order drawn by numpy, which fairseq seeds with seed and epoch: int64 `[n]`."""
        order = np.random.permutation(len(self))
        return order[np.argsort(self.sizes[order], kind="stable")]


@dataclass
class LraConfig(FairseqDataclass):
    data: Optional[str] = field(default=None, metadata={"help": "folder made by scripts/prepare_lra.sh"})  # noqa: UP045
    lra_task: Optional[ChoiceEnum(list(LRA_TASKS))] = field(  # noqa: UP045 (fairseq reads this form alone)
        default=None, metadata={"help": "which of the five sets the folder holds"}
    )
    max_positions: Optional[int] = field(  # noqa: UP045
        default=None, metadata={"help": "length of the longest sequence (default: that of the set in Long Range Arena)"}
    )
    truncate: bool = field(
        default=False, metadata={"help": "cut longer sequences at --max-positions instead of refusing them; cuts are counted"}
    )


@register_task("lra", dataclass=LraConfig)
class LraTask(EveryExampleTask):
    """Classification of one sequence, or of two (retrieval), for `lra_classifier`. `valid` is the set's dev split.

    Attributes:
        set: which of the five. vocabulary: ids in a batch, padding included. classes: labels. towers: sequences of an example.
    """

    cfg: LraConfig

    def __init__(self, cfg: LraConfig) -> None:
        super().__init__(cfg)
        meta = read_meta(Path(cfg.data))
        self.set = LRA_TASKS[str(cfg.lra_task)]
        self.vocabulary, self.classes, self.towers = meta["vocabulary"] + 1, meta["classes"], meta["parts"]
        said = meta.get("settings", {}).get("task", cfg.lra_task)
        if str(said) != str(cfg.lra_task):
            raise ValueError(f"{cfg.data}: the set of {said}, not of {cfg.lra_task}; name the folder of {cfg.lra_task}")
        if self.towers != self.set.towers:
            sequences = f"its examples have {self.towers} sequence(s), those of {cfg.lra_task} have {self.set.towers}"
            raise ValueError(f"{cfg.data}: {sequences}; name the folder of {cfg.lra_task}")

    @classmethod
    def setup_task(cls, cfg: LraConfig, **kwargs: Any) -> "LraTask":
        """The task for a config; --max-positions becomes that of the set where it wasn't given.

        Raises:
            ValueError: no --lra-task, a folder that can't be of it or isn't whole, or a length out of range.
        """
        name = None if cfg.lra_task is None else str(cfg.lra_task)
        if name not in LRA_TASKS:
            raise ValueError(f"--lra-task {name}: must be one of {', '.join(LRA_TASKS)}")
        if not cfg.data:
            raise ValueError("no data folder; name the one that scripts/prepare_lra.sh made")
        if cfg.max_positions is None:
            cfg.max_positions = LRA_TASKS[name].max_positions
        if cfg.max_positions < 1:
            raise ValueError(f"--max-positions must be at least 1, got {cfg.max_positions}")
        return cls(cfg)

    def load_dataset(self, split: str, combine: bool = False, task_cfg: Any = None, **kwargs: Any) -> None:
        """Open a split.

        Raises:
            ValueError: files that are missing or damaged, or sequences longer than --max-positions without --truncate.
        """
        sequences = LabelledSequences(self.cfg.data, SPLIT_ON_DISK.get(split, split))
        longest = self.cfg.max_positions
        dataset = LraDataset(sequences, longest)
        if dataset.cut and not self.cfg.truncate:
            first = int((sequences.sizes > longest).argmax())
            raise ValueError(
                f"{self.cfg.data}: {dataset.cut:,} of {len(dataset):,} examples in {sequences.split} are longer than "
                f"--max-positions {longest:,}, the first is example {first:,} with {sequences.sizes[first]:,} tokens; "
                f"cut them by --truncate"
            )
        logger.info(f"{sequences.split}: {len(dataset):,} examples, {dataset.cut:,} of them cut at {longest:,} tokens")
        self.datasets[split] = dataset

    def max_positions(self) -> int:
        """The longest sequence, in tokens."""
        return self.cfg.max_positions
