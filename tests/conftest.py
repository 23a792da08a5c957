"""Fixtures of all tests: a tiny bilingual corpus, dictionaries, models and tasks on it."""

import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from fairseq import options
from fairseq.data import Dictionary
from fairseq_cli import preprocess

from momentum_fairseq.models.momentum_nat import MomentumNatConfig, MomentumNatModel
from momentum_fairseq.tasks.translation_nat import TranslationNatConfig, TranslationNatTask

# Without a GPU the kernels run in Triton's interpreter, which must be chosen before triton is first imported.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

SPLITS = {"train": 200, "valid": 41, "test": 30}  # 41: no multiple of 8, fairseq's batch size unit
WORDS = 20
PAD, EOS = 1, 2


def pairs(count: int, seed: int) -> list[tuple[str, str]]:
    """Sentences of 1 to 11 words a0 … a19; their translation is word for word, and each word below a4 makes two words."""
    random = Random(seed)
    result = []
    for _ in range(count):
        numbers = [random.randrange(WORDS) for _ in range(random.randint(1, 11))]
        target = [f"b{n} c{n}" if n < 4 else f"b{n}" for n in numbers]
        result.append((" ".join(f"a{n}" for n in numbers), " ".join(target)))
    return result


@pytest.fixture(autouse=True)
def _logging_stays_enabled() -> Iterator[None]:
    """Scripts disable fairseq's logging for good, which outlives a test that runs one in this process."""
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of raw text `<split>.<src|tgt>`; `bin` in it is binarised."""
    folder = tmp_path_factory.mktemp("corpus")
    for seed, (split, count) in enumerate(SPLITS.items()):
        source, target = zip(*pairs(count, seed), strict=True)
        (folder / f"{split}.src").write_text("\n".join(source) + "\n")
        (folder / f"{split}.tgt").write_text("\n".join(target) + "\n")
    binarise(folder, folder / "bin")
    return folder


def binarise(folder: Path, out: Path) -> None:
    """fairseq-preprocess on `folder`."""
    prefixes = [f"--{split}pref={folder / split}" for split in SPLITS]
    arguments = ["--source-lang=src", "--target-lang=tgt", f"--destdir={out}", *prefixes]
    preprocess.main(options.get_preprocessing_parser().parse_args(arguments))


@pytest.fixture(scope="session")
def dictionary() -> Dictionary:
    """w0 … w39."""
    result = Dictionary()
    for i in range(40):
        result.add_symbol(f"w{i}")
    return result


@pytest.fixture
def build_model(dictionary: Dictionary) -> Callable[..., MomentumNatModel]:
    """A tiny model in evaluation mode, seeded; keyword arguments are fields of its config."""

    def build(seed: int = 1, **values: Any) -> MomentumNatModel:
        torch.manual_seed(seed)
        tiny = {"embed_dim": 12, "ffn_dim": 16, "layers": 2, "heads": 2, "dropout": 0.0}
        limits = {"max_source_positions": 256, "max_target_positions": 256}
        config = MomentumNatConfig(**{**tiny, **limits, **values})
        return MomentumNatModel(config, dictionary, dictionary).eval()

    return build


@pytest.fixture
def build_task(corpus: Path) -> Callable[..., TranslationNatTask]:
    """The task on the corpus; keyword arguments are fields of its config."""

    def build(**values: Any) -> TranslationNatTask:
        data = {"data": str(corpus / "bin"), "source_lang": "src", "target_lang": "tgt", "train_subset": "train"}
        limits = {"max_source_positions": 256, "max_target_positions": 256}
        rest = {"dataset_impl": None, "required_seq_len_multiple": 1, "left_pad_source": True}
        config = TranslationNatConfig(**{**data, **limits, **rest, **values})
        return TranslationNatTask.setup_task(config)

    return build
