"""`translation_nat`: translation by iterative refinement, with denoising, BLEU in validation, and no lost sentences."""

import os
from argparse import Namespace
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Any, Optional

import numpy as np
import torch
from fairseq import utils
from fairseq.data import LanguagePairDataset, StripTokenDataset, data_utils
from fairseq.dataclass import ChoiceEnum
from fairseq.dataclass.configs import GenerationConfig
from fairseq.tasks import register_task
from fairseq.tasks.translation import TranslationConfig, TranslationTask

from momentum_fairseq.ops import corrupt
from momentum_fairseq.refinement_generator import STOPPING_RULES, RefinementGenerator
from momentum_fairseq.teacher_scorer import TeacherScorer

GENERATION_ARGUMENTS = {
    "iter_decode_max_iter": 10,
    "iter_decode_force_max_iter": False,
    "iter_decode_with_beam": 1,
    "retain_iter_history": False,
}
# These fairseq's command line sees to, or the generator refuses; the other options of beam search are refused here.
OTHER_ARGUMENTS = ("beam", "nbest", "prefix_size", "print_step", "no_beamable_mm", "no_seed_provided")


@dataclass
class TranslationNatConfig(TranslationConfig):
    train_steps: int = field(
        default=4, metadata={"help": "decoder passes in training: the initial prediction and the refinements"}
    )
    denoising_probability: float = field(
        default=0.5, metadata={"help": "p_dae: chance that a refinement step reads a corrupted target"}
    )
    corruption_rate: float = field(default=0.1, metadata={"help": "share of a target's words that are corrupted"})
    stopping: ChoiceEnum(list(STOPPING_RULES)) = field(
        default="equality",
        metadata={"help": "when adaptive decoding stops a sentence: its output repeats, or its words do over a window"},
    )
    stopping_window: int = field(default=5, metadata={"help": "outputs that --stopping jaccard compares"})
    oracle_length: bool = field(default=False, metadata={"help": "decode with the references' lengths"})
    rescore_with: Optional[str] = field(  # noqa: UP045 (fairseq reads this form alone)
        default=None,
        metadata={"help": "checkpoint of an autoregressive model that ranks the outputs of the length beam by its own log p"},
    )
    collapse_repeats: bool = field(
        default=False, metadata={"help": "drop repeated tokens from the result, as the paper's published code does"}
    )
    # fairseq's own default, -1, is no number of copies: it fails wherever there is a second part.
    upsample_primary: int = field(
        default=1, metadata={"help": "copies of the first part of a set that has several (train, train1, …)"}
    )


@register_task("translation_nat", dataclass=TranslationNatConfig)
class TranslationNatTask(TranslationTask):
    """fairseq's translation task for models that predict all words at once.

    Targets carry no EOS: the length is predicted. `--iter-decode-max-iter N` is the number of decoder passes, the initial
    translation included; `--iter-decode-force-max-iter` runs them all; `--iter-decode-with-beam L` tries L lengths.
    """

    cfg: TranslationNatConfig

    @classmethod
    def setup_task(cls, cfg: TranslationNatConfig, **kwargs: Any) -> "TranslationNatTask":
        """Load the dictionaries.

        Raises:
            ValueError: an option out of range or one that this task can't honour.
            FileNotFoundError: a missing data folder or dictionary.
        """
        if cfg.train_steps < 1:
            raise ValueError(f"--train-steps must be at least 1, got {cfg.train_steps}")
        if not 0 <= cfg.denoising_probability <= 1:
            raise ValueError(f"--denoising-probability must be in [0, 1], got {cfg.denoising_probability}")
        if not 0 <= cfg.corruption_rate <= 1:
            raise ValueError(f"--corruption-rate must be in [0, 1], got {cfg.corruption_rate}")
        if cfg.left_pad_target:
            raise ValueError("translation_nat pads targets on the right; leave --left-pad-target off")
        folder = utils.split_paths(cfg.data)[0]
        if not os.path.isdir(folder):
            raise FileNotFoundError(f"no data folder {folder}; make it with scripts/prepare_parallel.sh")
        guessed = cfg.source_lang is None or cfg.target_lang is None
        if guessed:
            cfg.source_lang, cfg.target_lang = data_utils.infer_language_pair(folder)
        if cfg.source_lang is None or cfg.target_lang is None:
            raise ValueError(f"can't tell the languages of {folder}; give --source-lang and --target-lang")
        for language in (cfg.source_lang, cfg.target_lang):
            dictionary = os.path.join(folder, f"dict.{language}.txt")
            if not os.path.isfile(dictionary):
                # fairseq takes dict.pt-BR.txt for data from pt to BR
                unless = ", or give --source-lang and --target-lang, which were guessed from file names" if guessed else ""
                raise FileNotFoundError(
                    f"no dictionary {dictionary}; prepare the data with scripts/prepare_parallel.sh, or copy the "
                    f"dictionary that the model was trained with{unless}"
                )
        return super().setup_task(cfg, **kwargs)

    def build_model(self, cfg: Any, from_checkpoint: bool = False) -> Any:
        """Build a model; one from a checkpoint may be the teacher of --rescore-with.

        Raises:
            ValueError: a model to be trained that doesn't refine.
        """
        model = super().build_model(cfg, from_checkpoint)
        if not from_checkpoint:
            check_refines(model)
        return model

    def build_criterion(self, cfg: Any, from_checkpoint: bool = False) -> Any:
        """Build the loss.

        Raises:
            ValueError: one of fairseq's own, none of which knows of refinement steps.
        """
        criterion = super().build_criterion(cfg, from_checkpoint)
        if type(criterion).__module__.startswith("fairseq."):
            raise ValueError(f"--criterion {cfg._name}: translation_nat takes --criterion nat_refinement_loss")
        return criterion

    def load_dataset(self, split: str, epoch: int = 1, combine: bool = False, **kwargs: Any) -> None:
        """Load a split; its targets lose their EOS.

        Raises:
            ValueError: an empty target sentence.
        """
        super().load_dataset(split, epoch=epoch, combine=combine, **kwargs)
        dataset = self.datasets[split]
        dataset.input_feeding = False
        if dataset.tgt is None:
            return
        empty = (dataset.tgt_sizes <= 1).nonzero()[0]
        if len(empty):
            raise ValueError(
                f"{len(empty)} empty target sentences in {split}, the first at line {empty[0] + 1}; remove them "
                f"(scripts/prepare_parallel.sh does so for training data)"
            )
        dataset.tgt = StripTokenDataset(dataset.tgt, self.tgt_dict.eos())
        dataset.tgt_sizes = dataset.tgt_sizes - 1

    def get_batch_iterator(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
        """As in fairseq, with two repairs: outside training every sentence is in some batch, and the batches don't depend on
        the epoch in which they are made, which is another one where a training is resumed.

        Raises:
            RuntimeError: a sentence was lost all the same.
        """
        skips = kwargs.get("ignore_invalid_inputs", False)  # a training always skips; translating the training data doesn't
        training = skips and self.datasets.get(self.cfg.train_subset) is dataset
        if not training:
            kwargs["required_batch_size_multiple"] = 1
        dataset.ordered_indices = partial(_ordered, dataset, kwargs.get("seed", 1))
        iterator = super().get_batch_iterator(dataset, *args, **kwargs)
        if not skips and kwargs.get("num_shards", 1) == 1:
            batched = sum(len(batch) for batch in iterator.frozen_batches)
            if batched != len(dataset):
                raise RuntimeError(f"{len(dataset)} sentences went in but only {batched} are in batches")
        return iterator

    def train_step(
        self, sample: Any, model: Any, criterion: Any, optimizer: Any, update_num: int, ignore_grad: bool = False
    ) -> tuple[Any, Any, Any]:
        """One forward and backward pass; refinement steps read a corrupted target with probability p_dae."""
        sample["step_inputs"] = self.draw_step_inputs(sample["target"], batch=int(sample["id"][0]))
        return super().train_step(sample, model, criterion, optimizer, update_num, ignore_grad)

    def valid_step(self, sample: Any, model: Any, criterion: Any) -> tuple[Any, Any, Any]:
        """The loss of the model's own refinements, and BLEU with --eval-bleu."""
        sample["step_inputs"] = [None] * (self.cfg.train_steps - 1)
        return super().valid_step(sample, model, criterion)

    def draw_step_inputs(self, target: torch.Tensor, batch: int = 0) -> list[torch.Tensor | None]:
        """One entry for each refinement step of a batch: a fresh corruption of `target` `[B,N]`, or None.

        fairseq seeds torch anew at each update, alike on all workers. Which steps are denoised follows from that seed alone,
        once for all batches of an update; the corruption from the seed and `batch`, the number of the batch's first sentence.
        So the draws depend neither on the number of workers nor on whether a training was resumed.
        """
        dictionary, seed = self.tgt_dict, torch.initial_seed()
        special = (dictionary.bos(), dictionary.pad(), dictionary.eos())
        denoise = torch.rand(self.cfg.train_steps - 1, generator=torch.Generator().manual_seed(seed))
        generator = torch.Generator(target.device)
        generator.manual_seed(int(np.random.SeedSequence((seed, batch)).generate_state(1)[0]))
        options = {"rate": self.cfg.corruption_rate, "special": special, "ordinary": self.ordinary_words}
        return [
            corrupt(target, **options, generator=generator) if drawn else None
            for drawn in (denoise < self.cfg.denoising_probability).tolist()
        ]

    @property
    def ordinary_words(self) -> tuple[int, int]:
        """First and one-past-last id of the words in the target dictionary, without specials and fairseq's filling."""
        dictionary = self.tgt_dict
        end = len(dictionary)
        while end > dictionary.nspecial and dictionary[end - 1].startswith("madeupword"):
            end -= 1
        return dictionary.nspecial, end

    def build_generator(
        self,
        models: Any,
        args: Any,
        seq_gen_cls: Any = None,
        extra_gen_cls_kwargs: Any = None,
        prefix_allowed_tokens_fn: Any = None,
    ) -> RefinementGenerator:
        """The generator for fairseq's generation options, or for the JSON of --eval-bleu-args.

        Args:
            extra_gen_cls_kwargs: what fairseq-generate always gives: the language model of --lm-path, which is refused.

        Raises:
            ValueError: an unknown key in --eval-bleu-args, options of beam search, or a model that doesn't refine.
        """
        for model in models:
            check_refines(model)
        refuse_beam_search(args)
        if seq_gen_cls is not None or prefix_allowed_tokens_fn is not None:
            raise ValueError("iterative refinement can't honour seq_gen_cls or prefix_allowed_tokens_fn; leave them out")
        if isinstance(args, Namespace):
            unknown = vars(args).keys() - GENERATION_ARGUMENTS.keys()
            if unknown and not hasattr(args, "iter_decode_eos_penalty"):
                raise ValueError(
                    f"--eval-bleu-args holds {sorted(unknown)}; refinement takes {sorted(GENERATION_ARGUMENTS)}"
                )
        values = {key: getattr(args, key, default) for key, default in GENERATION_ARGUMENTS.items()}
        return RefinementGenerator(
            self.tgt_dict,
            max_steps=values["iter_decode_max_iter"],
            adaptive=not values["iter_decode_force_max_iter"],
            stopping=str(self.cfg.stopping),
            window=self.cfg.stopping_window,
            length_beam=values["iter_decode_with_beam"],
            oracle_length=self.cfg.oracle_length,
            collapse_repeats=self.cfg.collapse_repeats,
            retain_history=values["retain_iter_history"],
            scorer=None if self.cfg.rescore_with is None else TeacherScorer.load(self.cfg.rescore_with, self),
        )


def check_refines(model: Any) -> None:
    """Raise ValueError for a model without refinement steps."""
    if not hasattr(model, "refine"):
        name = type(model).__name__
        raise ValueError(f"--task translation_nat takes models that refine (momentum_nat), not {name}; --task translation may")


def refuse_beam_search(args: Any) -> None:
    """Raise ValueError for generation options that refinement would have to ignore."""
    if getattr(args, "beam", 1) not in (1, GenerationConfig.beam):  # what all give who don't mean to have one
        raise ValueError(f"--beam {args.beam}: refinement searches no beam; --iter-decode-with-beam tries several lengths")
    if getattr(args, "sacrebleu", False):  # fairseq-generate itself recommends it, though it scores by --scoring alone
        raise ValueError("--sacrebleu changes no score; --scoring sacrebleu does")
    nbest, lengths = getattr(args, "nbest", 1), getattr(args, "iter_decode_with_beam", 1)
    if nbest > lengths:
        raise ValueError(f"--nbest {nbest} needs --iter-decode-with-beam of at least {nbest}, got {lengths}")
    for option in fields(GenerationConfig):
        value = getattr(args, option.name, option.default)
        if option.name not in (*GENERATION_ARGUMENTS, *OTHER_ARGUMENTS) and value != option.default:
            raise ValueError(f"--{option.name.replace('_', '-')} {value}: iterative refinement can't honour it; leave it out")


def _ordered(dataset: LanguagePairDataset, seed: int) -> np.ndarray:
    """The sentences by length, those of equal length in an order that the seed alone decides: int64 `[sentences]`."""
    with data_utils.numpy_seed(seed):
        return type(dataset).ordered_indices(dataset)
