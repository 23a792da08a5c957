"""The task: corruption in training only, no lost sentences, EOS off the targets, clear errors."""

import shutil
from argparse import Namespace

import pytest
import torch
from fairseq import options
from fairseq.dataclass.configs import GenerationConfig
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq_cli import preprocess
from omegaconf import OmegaConf

from momentum_fairseq.criterions.nat_refinement_loss import NatRefinementLoss
from momentum_fairseq.models.momentum_nat import MomentumNatModel

PAD, EOS = 1, 2


@pytest.fixture
def model(build_model, build_task):
    """A model for the corpus."""
    task = build_task()
    return MomentumNatModel(build_model().cfg, task.source_dictionary, task.target_dictionary)


def batches(task, split: str, **values) -> list[dict]:
    task.load_dataset(split)
    arguments = {"max_sentences": 8, "max_positions": (256, 256), "required_batch_size_multiple": 8, **values}
    iterator = task.get_batch_iterator(task.dataset(split), **arguments)
    return list(iterator.next_epoch_itr(shuffle=False))


# data


@pytest.mark.parametrize(("split", "sentences"), [("train", 200), ("valid", 41), ("test", 30)])
def test_no_sentence_is_lost_outside_training(build_task, split, sentences):
    ids = torch.cat([batch["id"] for batch in batches(build_task(), split)])
    assert sorted(ids.tolist()) == list(range(sentences))


def test_fairseq_loses_sentences_where_the_task_does_not_see_to_it(build_task):
    task = build_task()
    task.load_dataset("valid")
    iterator = super(type(task), task).get_batch_iterator(
        task.dataset("valid"), max_sentences=7, max_positions=(256, 256), required_batch_size_multiple=8
    )
    found = sum(len(batch) for batch in iterator.frozen_batches)
    ours = sum(len(batch["id"]) for batch in batches(task, "valid", max_sentences=7))
    assert (found < 41, ours) == (True, 41)


def test_a_lost_sentence_is_an_error(build_task, monkeypatch):
    task = build_task()
    task.load_dataset("valid")
    monkeypatch.setattr("fairseq.data.FairseqDataset.batch_by_size", lambda self, indices, **_: [list(indices[:40])])
    with pytest.raises(RuntimeError, match="41 sentences went in but only 40 are in batches"):
        task.get_batch_iterator(task.dataset("valid"), max_sentences=8)


def test_a_sentence_too_long_for_the_model_is_an_error_not_a_loss(build_task):
    with pytest.raises(Exception, match="is invalid .* since max_positions"):
        batches(build_task(), "valid", max_positions=(5, 5))


def test_training_may_skip_sentences_that_are_too_long(build_task):
    found = batches(build_task(), "train", max_positions=(8, 256), ignore_invalid_inputs=True)
    assert 0 < sum(len(batch["id"]) for batch in found) < 200


def test_targets_carry_no_eos_and_sources_do(build_task, corpus):
    task = build_task()
    lines = (corpus / "valid.tgt").read_text().splitlines()
    for batch in batches(task, "valid"):
        assert (batch["target"] != EOS).all()
        assert (batch["net_input"]["src_tokens"][:, -1] == EOS).all()
        assert "prev_output_tokens" not in batch["net_input"]
        for index, target in zip(batch["id"].tolist(), batch["target"], strict=True):
            assert task.target_dictionary.string(target[target != PAD]) == lines[index]
        assert batch["ntokens"] == int((batch["target"] != PAD).sum())
    assert task.dataset("valid").tgt_sizes.tolist() == [len(line.split()) for line in lines]


def write(folder, text: dict[str, tuple[str, str]]) -> str:
    """Binarise (source, target) texts by split; the folder for `data`."""
    folder.mkdir()
    for split, sides in text.items():
        for language, lines in zip(("src", "tgt"), sides, strict=True):
            (folder / f"{split}.{language}").write_text(lines)
    prefixes = [f"--{split}pref={folder / split}" for split in text]
    arguments = ["--source-lang=src", "--target-lang=tgt", f"--destdir={folder / 'bin'}", *prefixes]
    preprocess.main(options.get_preprocessing_parser().parse_args(arguments))
    return str(folder / "bin")


def test_an_empty_target_sentence_is_refused_by_its_line(build_task, tmp_path):
    data = write(tmp_path / "raw", {"train": ("a b\nb\na a\nb\n", "x y\n\nx\n\n")})
    task = build_task(data=data)
    with pytest.raises(ValueError, match="2 empty target sentences in train, the first at line 2; remove them"):
        task.load_dataset("train")


def test_an_empty_source_sentence_trains_and_decodes(build_task, build_model, tmp_path):
    task = build_task(data=write(tmp_path / "raw", {"train": ("\na b\n", "x\ny x\n")}))
    (batch,) = batches(task, "train")
    model = MomentumNatModel(build_model().cfg, task.source_dictionary, task.target_dictionary)
    loss, _, _ = task.valid_step(batch, model, NatRefinementLoss(task, 1.0))
    assert torch.as_tensor(loss).isfinite()
    assert len(task.build_generator([model], GenerationConfig()).generate([model], batch)) == 2


def test_unknown_words_are_read_as_unknown(build_task):
    task = build_task()
    tokens = task.source_dictionary.encode_line("a1 never", add_if_not_exist=False)
    dataset = task.build_dataset_for_inference([tokens], [3])
    assert dataset.collater([dataset[0]])["net_input"]["src_tokens"][0, 1] == task.source_dictionary.unk()


# corruption


def changed(task, target: torch.Tensor) -> list:
    return [None if step is None else (step != target).any().item() for step in task.draw_step_inputs(target)]


def test_p_dae_0_never_corrupts_and_p_dae_1_always_does(build_task):
    target = torch.randint(4, 20, (3, 9))
    for _ in range(20):
        assert changed(build_task(denoising_probability=0.0), target) == [None] * 3
    drawn = [build_task(denoising_probability=1.0).draw_step_inputs(target) for _ in range(3)]
    assert all(step.shape == target.shape for steps in drawn for step in steps)


def test_p_dae_one_half_draws_half_of_the_steps(build_task):
    task, target, drawn = build_task(denoising_probability=0.5), torch.randint(4, 20, (1, 3)), []
    for seed in range(500):
        torch.manual_seed(seed)
        drawn += [step is not None for step in task.draw_step_inputs(target)]
    assert len(drawn) == 1500
    assert 0.45 < sum(drawn) / 1500 < 0.55


@pytest.mark.parametrize("steps", [1, 2, 6])
def test_train_steps_counts_the_initial_prediction(build_task, steps):
    assert len(build_task(train_steps=steps).draw_step_inputs(torch.full((1, 4), 5))) == steps - 1


def test_all_batches_of_an_update_denoise_the_same_steps(build_task):
    task, target, kinds = build_task(denoising_probability=0.5, train_steps=5), torch.randint(4, 20, (2, 6)), set()
    for update in range(20):
        torch.manual_seed(update)
        drawn = [tuple(step is None for step in task.draw_step_inputs(target, batch)) for batch in (0, 7, 9)]
        torch.rand(3)  # what dropout draws between two batches
        drawn.append(tuple(step is None for step in task.draw_step_inputs(target, 11)))
        assert len(set(drawn)) == 1
        kinds.add(drawn[0])
    assert len(kinds) > 5


def test_draws_are_fresh_and_repeat_with_torchs_seed_and_the_batch(build_task):
    task, target = build_task(denoising_probability=1.0, corruption_rate=0.5), torch.randint(4, 20, (4, 30))
    torch.manual_seed(7)
    first, second = task.draw_step_inputs(target, 0), task.draw_step_inputs(target, 1)
    again = task.draw_step_inputs(target, 0)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    torch.manual_seed(8)
    different = [*first, *second, *task.draw_step_inputs(target, 0)]
    assert not any(torch.equal(a, b) for i, a in enumerate(different) for b in different[i + 1 :])


def test_corruption_touches_and_makes_no_special_symbol_or_filling(build_task):
    """fairseq-preprocess fills the dictionary up to a multiple of 8."""
    task = build_task(denoising_probability=1.0, corruption_rate=1.0)
    words = 4 + 24
    assert task.target_dictionary[words] == "madeupword0000"
    target = torch.randint(4, words, (50, 12))
    target[:, 9:] = PAD
    for step in task.draw_step_inputs(target):
        assert (step[:, 9:] == PAD).all()
        assert set(step[:, :9].unique().tolist()) == set(range(4, words))
        assert (step[:, :9] != target[:, :9]).any()


def test_only_training_reads_corrupted_targets(build_task, model):
    task = build_task(denoising_probability=1.0, train_steps=3)
    (batch, *_), criterion = batches(task, "valid"), NatRefinementLoss(task, 1.0)
    optimizer = Namespace(backward=lambda loss: loss.backward())
    task.train_step(batch, model, criterion, optimizer, update_num=0)
    assert [step.shape for step in batch["step_inputs"]] == [batch["target"].shape] * 2
    task.valid_step(batch, model, criterion)
    assert batch["step_inputs"] == [None, None]


def test_the_validation_loss_is_not_random(build_task, model):
    task = build_task(denoising_probability=1.0)
    (batch, *_), criterion = batches(task, "valid"), NatRefinementLoss(task, 1.0)
    model.eval()
    losses = [float(task.valid_step(batch, model, criterion)[0]) for _ in range(2)]
    assert losses[0] == losses[1]


# options


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"train_steps": 0}, "--train-steps must be at least 1, got 0"),
        ({"denoising_probability": 1.5}, r"--denoising-probability must be in \[0, 1\], got 1.5"),
        ({"corruption_rate": -0.1}, r"--corruption-rate must be in \[0, 1\], got -0.1"),
        ({"left_pad_target": True}, "pads targets on the right; leave --left-pad-target off"),
    ],
)
def test_a_bad_option_is_refused_by_name_and_value(build_task, option, message):
    with pytest.raises(ValueError, match=message):
        build_task(**option)


def test_a_missing_folder_dictionary_or_language_is_named(build_task, corpus, tmp_path):
    with pytest.raises(FileNotFoundError, match="no data folder .*nowhere; make it with scripts/prepare_parallel.sh"):
        build_task(data=str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match="can't tell the languages of .*give --source-lang and --target-lang"):
        build_task(data=str(tmp_path), source_lang=None, target_lang=None)
    shutil.copytree(corpus / "bin", tmp_path / "bin")
    (tmp_path / "bin" / "dict.tgt.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"no dictionary .*dict\.tgt\.txt; prepare the data"):
        build_task(data=str(tmp_path / "bin"))
    hyphenated = tmp_path / "hyphenated"
    hyphenated.mkdir()
    (hyphenated / "dict.pt-BR.txt").touch()
    with pytest.raises(FileNotFoundError, match=r"dict\.pt\.txt; .* give --source-lang and --target-lang, which were guessed"):
        build_task(data=str(hyphenated), source_lang=None, target_lang=None)


def test_a_set_in_parts_is_read_whole_in_training_and_with_combine_val(build_task, corpus, tmp_path):
    """fairseq calls the parts of a set train, train1, …; its own default for --upsample-primary fails on them."""
    shutil.copytree(corpus / "bin", tmp_path / "bin")
    for file in (corpus / "bin").glob("valid.*"):
        for split in ("train1", "valid1"):
            shutil.copy(file, tmp_path / "bin" / file.name.replace("valid", split))
    task = build_task(data=str(tmp_path / "bin"))
    for split, sentences in (("train", 200 + 41), ("valid", 41 + 41)):
        task.load_dataset(split, combine=True)
        assert len(task.dataset(split)) == sentences
    assert task.dataset("train")[240]["target"].tolist() == task.dataset("valid")[40]["target"].tolist()


def test_a_missing_split_is_named(build_task):
    with pytest.raises(FileNotFoundError, match="Dataset not found: nothing"):
        build_task().load_dataset("nothing")


def test_the_languages_are_told_from_the_data(build_task):
    task = build_task(source_lang=None, target_lang=None)
    assert (task.cfg.source_lang, task.cfg.target_lang) == ("src", "tgt")


def test_generation_options_reach_the_generator(build_task):
    task = build_task(stopping="jaccard", stopping_window=3, collapse_repeats=True)
    values = {"iter_decode_max_iter": 7, "iter_decode_force_max_iter": True, "iter_decode_with_beam": 4}
    config = OmegaConf.merge(OmegaConf.structured(GenerationConfig), {**values, "retain_iter_history": True})
    generator = task.build_generator([], config)
    assert (generator.max_steps, generator.adaptive, generator.length_beam, generator.retain_history) == (7, False, 4, True)
    assert (generator.stopping, generator.window, generator.collapse_repeats) == ("jaccard", 3, True)
    assert build_task(oracle_length=True).build_generator([], GenerationConfig()).oracle_length


def test_an_unknown_key_in_eval_bleu_args_is_refused_and_known_ones_are_taken(build_task):
    task = build_task()
    with pytest.raises(ValueError, match=r"--eval-bleu-args holds \['beam'\]; refinement takes .*iter_decode_max_iter"):
        task.build_generator([], Namespace(beam=5, iter_decode_max_iter=3))
    assert task.build_generator([], Namespace(iter_decode_max_iter=3)).max_steps == 3
    assert task.build_generator([], Namespace()).max_steps == 10


@pytest.mark.filterwarnings(r"ignore:\s*'config' is validated:UserWarning")
def test_the_options_have_their_flags(corpus):
    line = [
        *(str(corpus / "bin"), "--task=translation_nat", "--arch=momentum_nat_tiny", "--train-steps=3"),
        *("--denoising-probability=0.25", "--corruption-rate=0.2", "--stopping=jaccard", "--stopping-window=4"),
        *("--oracle-length", "--collapse-repeats"),
    ]
    cfg = convert_namespace_to_omegaconf(options.parse_args_and_arch(options.get_training_parser(), line)).task
    assert (cfg.train_steps, cfg.denoising_probability, cfg.corruption_rate) == (3, 0.25, 0.2)
    assert (str(cfg.stopping), cfg.stopping_window, cfg.oracle_length, cfg.collapse_repeats) == ("jaccard", 4, True, True)


def test_validation_counts_bleu_of_every_sentence(build_task, model):
    task = build_task(eval_bleu=True, eval_bleu_args='{"iter_decode_max_iter": 2}', eval_bleu_detok="space")
    task.sequence_generator = task.build_generator([model], Namespace(iter_decode_max_iter=2))
    task.tokenizer = None
    found = [task.valid_step(batch, model, NatRefinementLoss(task, 1.0))[2] for batch in batches(task, "valid")]
    words = sum(int((batch["target"] != PAD).sum()) for batch in batches(task, "valid"))
    assert sum(int(output["_bleu_ref_len"]) for output in found) == words


def test_the_batches_of_a_training_depend_on_the_seed_and_not_on_the_epoch_they_are_made_in(build_task):
    """A training resumed in epoch 3 makes its batches then; an uninterrupted one made them in epoch 1."""

    def made(seed: int, epoch: int) -> list[list[int]]:
        task = build_task()
        task.load_dataset("train")
        options = {"max_sentences": 8, "seed": seed, "epoch": epoch, "ignore_invalid_inputs": True}
        iterator = task.get_batch_iterator(task.dataset("train"), **options)
        return [list(batch) for batch in iterator.frozen_batches]

    assert made(seed=1, epoch=1) == made(seed=1, epoch=3)
    assert made(seed=1, epoch=1) != made(seed=2, epoch=1)
