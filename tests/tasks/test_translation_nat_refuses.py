"""What `translation_nat` refuses: models that don't refine, their losses, options of beam search; and a teacher."""

from argparse import Namespace

import pytest
import torch
from fairseq.criterions import CRITERION_DATACLASS_REGISTRY
from fairseq.dataclass.configs import GenerationConfig
from fairseq.tasks.translation import TranslationTask
from omegaconf import OmegaConf

from momentum_fairseq.models.momentum_nat import MomentumNatConfig, MomentumNatModel
from momentum_fairseq.models.momentum_transformer import MomentumTransformerConfig, MomentumTransformerModel

SIZES = {"embed_dim": 12, "ffn_dim": 16, "layers": 2, "heads": 2, "max_source_positions": 64, "max_target_positions": 64}
NAT = OmegaConf.structured(MomentumNatConfig(_name="momentum_nat", **SIZES))
AUTOREGRESSIVE = OmegaConf.structured(MomentumTransformerConfig(_name="momentum_transformer", **SIZES))
REFUSED = r"takes models that refine \(momentum_nat\), not MomentumTransformerModel; --task translation may"


def generation(**values):
    return OmegaConf.merge(OmegaConf.structured(GenerationConfig), values)


@pytest.mark.parametrize("eval_bleu", [False, True])
def test_a_model_that_does_not_refine_is_not_trained(build_task, eval_bleu):
    with pytest.raises(ValueError, match=REFUSED):
        build_task(eval_bleu=eval_bleu).build_model(AUTOREGRESSIVE)


def test_nor_does_another_task_take_the_model_that_refines(build_task):
    task = TranslationTask(build_task().cfg, None, None)
    with pytest.raises(ValueError, match="momentum_nat needs --task translation_nat, not TranslationTask"):
        MomentumNatModel.build_model(NAT, task)


@pytest.mark.parametrize("name", ["nat_loss", "label_smoothed_cross_entropy", "cross_entropy"])
def test_a_loss_that_knows_of_no_refinement_is_not_taken(build_task, name):
    values = {**vars(CRITERION_DATACLASS_REGISTRY[name]()), "_name": name}
    config = OmegaConf.create({key: False if key == "sentence_avg" else value for key, value in values.items()})
    with pytest.raises(ValueError, match=f"--criterion {name}: translation_nat takes --criterion nat_refinement_loss"):
        build_task().build_criterion(config)


def test_nor_does_it_decode(build_task):
    task = build_task()
    teacher = task.build_model(AUTOREGRESSIVE, from_checkpoint=True)
    with pytest.raises(ValueError, match=REFUSED):
        task.build_generator([teacher], GenerationConfig())


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *(("lenpen", 2.0), ("unkpen", 1.0), ("sampling", True), ("temperature", 0.5), ("max_len_a", 1.0), ("min_len", 5)),
        *(("no_repeat_ngram_size", 2), ("constraints", "ordered"), ("iter_decode_eos_penalty", 1.0), ("score_reference", True)),
        ("retain_dropout", True),
    ],
)
def test_an_option_of_beam_search_is_refused_by_its_flag(build_task, option, value):
    with pytest.raises(ValueError, match=f"--{option.replace('_', '-')} {value}: iterative refinement can't honour it"):
        build_task().build_generator([], generation(**{option: value}))


def test_a_flag_that_changes_no_score_is_refused_with_the_one_that_does(build_task):
    with pytest.raises(ValueError, match="--sacrebleu changes no score; --scoring sacrebleu does"):
        build_task().build_generator([], generation(sacrebleu=True))


@pytest.mark.parametrize("argument", ["seq_gen_cls", "prefix_allowed_tokens_fn"])
def test_what_fairseqs_hub_gives_to_beam_search_is_refused(build_task, argument):
    with pytest.raises(ValueError, match="iterative refinement can't honour seq_gen_cls or prefix_allowed_tokens_fn"):
        build_task().build_generator([], GenerationConfig(), **{argument: lambda sentence, words: [5]})


def test_a_beam_and_more_hypotheses_than_lengths_are_refused(build_task):
    task = build_task()
    with pytest.raises(ValueError, match="--beam 4: refinement searches no beam; --iter-decode-with-beam"):
        task.build_generator([], generation(beam=4))
    with pytest.raises(ValueError, match="--nbest 3 needs --iter-decode-with-beam of at least 3, got 2"):
        task.build_generator([], generation(nbest=3, iter_decode_with_beam=2))
    assert task.build_generator([], generation(beam=1, nbest=3, iter_decode_with_beam=3, print_step=True)).length_beam == 3


def test_a_teacher_ranks_in_validation_too(build_task, tmp_path):
    """--eval-bleu builds a generator around each model that is loaded, the teacher too, which has a teacher …"""
    task = build_task()
    teacher = MomentumTransformerModel.build_model(AUTOREGRESSIVE, task)
    options = {"_name": "momentum_transformer", **SIZES}
    cfg = {"model": options, "task": {"_name": "translation", "data": task.cfg.data}, "common": {}, "criterion": {}}
    done = {"criterion_name": "CrossEntropyCriterion", "num_updates": 0, "lr_scheduler_state": {}}
    history = {"optimizer_history": [done], "extra_state": {"train_iterator": {}}}
    torch.save({"cfg": cfg, "args": None, "model": teacher.state_dict(), **history}, tmp_path / "teacher.pt")
    arguments = '{"iter_decode_with_beam": 2}'
    values = {"eval_bleu_args": arguments, "eval_bleu_detok": "space", "rescore_with": str(tmp_path / "teacher.pt")}
    task = build_task(eval_bleu=True, **values)
    task.build_model(NAT)
    assert isinstance(task.sequence_generator.scorer.model, MomentumTransformerModel)
    assert task.cfg.eval_bleu
    assert isinstance(task.build_generator([], Namespace(iter_decode_with_beam=2)).scorer.model, MomentumTransformerModel)
