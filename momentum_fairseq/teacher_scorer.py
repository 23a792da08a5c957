"""Scores of whole translations by an autoregressive teacher, to rank the outputs of a length beam (Gu et al., ICLR 2018)."""

from copy import copy, deepcopy
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from fairseq import checkpoint_utils
from fairseq.data import data_utils
from torch import Tensor, nn

ROWS_AT_ONCE = 256  # translations a pass; bounds the logits in memory


class TeacherScorer:
    """log p(Y|X) / (T + 1) under an autoregressive model, EOS included.

    Args:
        model: fairseq's encoder–decoder interface, on the dictionaries of the translations.
        dictionary: the target dictionary.
    """

    def __init__(self, model: nn.Module, dictionary: Any) -> None:
        self.model, self.dictionary = model.eval(), dictionary

    @classmethod
    def load(cls, path: str, task: Any) -> "TeacherScorer":
        """From a checkpoint.

        Raises:
            FileNotFoundError: no such file.
            ValueError: a model that doesn't predict word after word, or one of other dictionaries.
        """
        if not Path(path).is_file():
            raise FileNotFoundError(f"--rescore-with {path}: no such checkpoint")
        dictionaries = {task.cfg.source_lang: task.source_dictionary, task.cfg.target_lang: task.target_dictionary}
        for language, dictionary in dictionaries.items():
            own = Path(path).with_name(f"dict.{language}.txt")
            if own.is_file() and type(dictionary).load(str(own)) != dictionary:
                raise ValueError(f"--rescore-with {path}: its dictionaries are not those of this data: {own} is another one")
        task = copy(task)
        task.cfg = deepcopy(task.cfg)
        task.cfg.eval_bleu = False  # for its sake fairseq builds a generator around any model that it loads
        try:
            models, _ = checkpoint_utils.load_model_ensemble([path], task=task)
        except RuntimeError as error:
            raise ValueError(f"--rescore-with {path}: its dictionaries are not those of this data: {error}") from error
        except (OSError, EOFError, KeyError, UnpicklingError) as error:
            why = type(error).__name__
            raise ValueError(f"--rescore-with {path}: not a checkpoint of fairseq that loads safely ({why})") from error
        if not hasattr(models[0], "decoder"):
            raise ValueError(f"--rescore-with {path}: {type(models[0]).__name__} doesn't predict word after word")
        return cls(models[0], task.target_dictionary)

    @torch.inference_mode()
    def score(self, src_tokens: Tensor, translations: list[Tensor]) -> list[float]:
        """Scores of translations, int64 `[T]` each without EOS, of the sources int64 `[R,S]`, one each."""
        scores: list[float] = []
        for start in range(0, len(translations), ROWS_AT_ONCE):
            rows = slice(start, start + ROWS_AT_ONCE)
            scores += self._score(src_tokens[rows], translations[rows]).tolist()
        return scores

    def _score(self, src_tokens: Tensor, translations: list[Tensor]) -> Tensor:
        padding, eos = self.dictionary.pad(), self.dictionary.eos()
        self.model.to(src_tokens.device)
        target = data_utils.collate_tokens([torch.cat([t, t.new_tensor([eos])]) for t in translations], padding)  # [R,T+1]
        previous = target.roll(1, 1)
        previous[:, 0] = eos
        real = target.ne(padding)
        output = self.model(src_tokens, src_tokens.ne(padding).sum(1), previous)
        log_p = self.model.get_normalized_probs(output, log_probs=True).gather(2, target.unsqueeze(2)).squeeze(2)
        return (log_p * real).sum(1) / real.sum(1)
