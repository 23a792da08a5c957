"""The language model: step by step it gives what it gives for whole sequences; presets and checkpoints."""

from argparse import Namespace
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from fairseq import models, options
from fairseq.data import Dictionary
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.models import ARCH_CONFIG_REGISTRY, ARCH_MODEL_REGISTRY
from fairseq.sequence_generator import SequenceGenerator
from fairseq.tasks import setup_task
from torch import Tensor

from momentum_fairseq.models.causal_decoder import STATE
from momentum_fairseq.models.momentum_lm import MomentumLmConfig, MomentumLmModel
from momentum_fairseq.modules import ATTENTION_KINDS, CONNECTIONS
from momentum_fairseq.modules.causal_attention import has_causal_form

PAD, EOS = 1, 2
CAUSAL_KINDS = sorted(name for name, kind in ATTENTION_KINDS.items() if has_causal_form(kind))
ALL = [(attention, connection) for attention in CAUSAL_KINDS for connection in sorted(CONNECTIONS)]
Build = Callable[..., MomentumLmModel]


@pytest.fixture
def build(dictionary: Dictionary) -> Build:
    """A tiny model in evaluation mode, seeded; keyword arguments are fields of its config."""

    def build(seed: int = 1, **values: Any) -> MomentumLmModel:
        torch.manual_seed(seed)
        tiny = {"embed_dim": 12, "ffn_dim": 16, "layers": 2, "heads": 2, "dropout": 0.0}
        limits = {"max_source_positions": None, "max_target_positions": None, "tokens_per_sample": 64}
        return MomentumLmModel(MomentumLmConfig(**{**tiny, **limits, **values}), dictionary, dictionary).eval()

    return build


def sequences(*lengths: int) -> list[Tensor]:
    """EOS and random words after it; `lengths` count the words."""
    generator = torch.Generator().manual_seed(5)
    return [F.pad(torch.randint(4, 44, (length,), generator=generator), (1, 0), value=EOS) for length in lengths]


def pad(rows: list[Tensor], width: int, left: bool) -> Tensor:
    """int64 `[B, width]`."""
    return torch.stack([F.pad(r, (width - len(r), 0) if left else (0, width - len(r)), value=PAD) for r in rows])


@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize(("attention", "connection"), ALL)
def test_step_by_step_logits_equal_those_of_whole_sequences(build, attention, connection, left):
    model, tokens = build(attention=attention, connection=connection).double(), pad(sequences(6, 3, 8), 10, left)
    real, whole = tokens.ne(PAD), model(tokens)[0]
    for ends in (range(1, 11), [4, 5, 7, 10]):
        state: dict[str, Any] = {}
        found = torch.cat([model(tokens[:, :end], incremental_state=state)[0] for end in ends], dim=1)
        torch.testing.assert_close(found[real], whole[real], rtol=0, atol=1e-10)


@pytest.mark.parametrize(("attention", "connection"), ALL)
def test_padding_on_either_side_and_batch_mates_change_no_logits(build, attention, connection):
    model, rows = build(attention=attention, connection=connection).double(), sequences(6, 3, 8)
    for left in (False, True):
        batch = pad(rows, 12, left)
        together = model(batch, batch.ne(PAD).sum(1))[0]
        for row, tokens, found in zip(rows, batch, together, strict=True):
            torch.testing.assert_close(found[tokens.ne(PAD)], model(row[None])[0][0], rtol=0, atol=1e-11)


@pytest.mark.parametrize(("attention", "connection"), ALL)
def test_a_word_changes_no_logits_before_it_and_all_from_it_on(build, attention, connection):
    model, tokens = build(attention=attention, connection=connection).double(), pad(sequences(7, 7), 8, False)
    changed = tokens.clone()
    changed[:, 4] = 4 + (changed[:, 4] - 3) % 40
    difference = (model(changed)[0] - model(tokens)[0]).abs().amax(dim=(0, 2))
    assert (difference[:4] < 1e-12).all() and (difference[4:] > 1e-6).all()


@pytest.mark.parametrize("attention", CAUSAL_KINDS)
def test_hypotheses_that_change_places_keep_their_logits(build, attention):
    model, tokens = build(attention=attention, connection="adaptive").double(), pad(sequences(9, 9, 9), 10, False)
    state, order = {}, torch.tensor([2, 0, 0, 1])
    for end in range(1, 6):
        model(tokens[:, :end], incremental_state=state)
    model.decoder.reorder_incremental_state_scripting(state, order)
    moved = tokens[order]
    found = torch.cat([model(moved[:, :end], incremental_state=state)[0] for end in range(6, 11)], dim=1)
    torch.testing.assert_close(found, model(moved)[0][:, 5:], rtol=0, atol=1e-10)


@pytest.mark.parametrize("attention", CAUSAL_KINDS)
def test_beam_search_after_a_prompt_finds_step_by_step_what_it_finds_without_states(build, dictionary, attention):
    model = build(attention=attention, connection="adaptive").double()
    prompt = pad(sequences(4, 4), 5, False)

    def search(by_steps: bool) -> list[list[int]]:
        generator = SequenceGenerator([model], dictionary, beam_size=3, max_len_b=9)
        generator.model.has_incremental = by_steps
        sample = {"net_input": {"src_tokens": prompt, "src_lengths": torch.tensor([5, 5])}}
        found = generator.generate([model], sample, prefix_tokens=prompt[:, 1:])
        return [hypothesis["tokens"].tolist() for sentence in found for hypothesis in sentence]

    found = search(by_steps=True)
    assert found == search(by_steps=False)
    assert [tokens[:4] for tokens in found] == [row[1:].tolist() for row in prompt for _ in range(3)]


@pytest.mark.parametrize(("attention", "constant"), [("softmax", False), ("linear", True), ("momentum", True)])
def test_what_is_kept_of_the_words_grows_with_softmax_attention_alone(build, attention, constant):
    model, tokens, state, sizes = build(attention=attention, tokens_per_sample=300), pad(sequences(299), 300, False), {}, []
    for end in (1, 100, 300):
        model(tokens[:, :end], incremental_state=state)
        layers = model.decoder.get_incremental_state(state, STATE).layers
        sizes.append(sum(x.numel() for layer in layers for x in layer.words if isinstance(x, Tensor)))
    assert (sizes[0] == sizes[1] == sizes[2]) == constant


# lengths, embeddings, checkpoints


def test_the_longest_sequence_is_the_tasks(build):
    assert build(tokens_per_sample=20).max_positions() == 20
    model = build(tokens_per_sample=20, max_target_positions=10)
    assert model.max_positions() == model.max_decoder_positions() == 10
    model(pad(sequences(10), 11, False))  # with --add-bos-token
    with pytest.raises(ValueError, match="12 positions asked for, but the model was built for 11"):
        model(pad(sequences(11), 12, False))


@pytest.mark.parametrize("flag", ["share_all_embeddings", "share_decoder_input_output_embed"])
def test_input_and_output_embeddings_are_shared_by_flag(build, flag):
    for model, shared in ((build(), False), (build(**{flag: True}), True)):
        assert (model.decoder.output_projection.weight is model.decoder.embedding.weight) == shared


def test_an_output_dictionary_of_its_own_is_refused(build, dictionary):
    with pytest.raises(ValueError, match="reads, 44 of them, not 4; leave --output-dictionary-size off"):
        MomentumLmModel(build().cfg, dictionary, Dictionary())


@pytest.mark.parametrize(
    ("preset", "layers", "attention", "connection"),
    [("momentum_lm_mnist", 8, (0.6, 0.9), (0.1, 0.99)), ("momentum_lm_cifar10", 16, (0.1, 0.9), (0.1, 0.9))],
)
def test_the_presets_of_images_have_the_papers_sizes_and_numbers(preset, layers, attention, connection):
    values = Namespace()
    ARCH_CONFIG_REGISTRY[preset](values)
    sizes = (values.layers, values.embed_dim, values.heads, values.ffn_dim, values.mixture_components)
    assert sizes == (layers, 256, 8, 1024, 10)
    assert (values.attention_momentum, values.attention_step_size) == attention
    assert (values.connection_momentum, values.connection_step_size) == connection


@pytest.mark.parametrize("normalize_before", [False, True])
@pytest.mark.parametrize("attention", CAUSAL_KINDS)
def test_a_step_gives_what_forward_gives_for_its_last_position(build, attention, normalize_before):
    model = build(attention=attention, connection="adaptive", normalize_before=normalize_before).double()
    tokens, state = pad(sequences(8, 8), 9, False), {}
    with torch.inference_mode():
        model(tokens[:, :3], incremental_state=state)
        found = torch.stack([model.decoder.step(tokens[:, i], state) for i in range(3, 9)], dim=1)
        torch.testing.assert_close(found, model(tokens)[0][:, 3:], rtol=0, atol=1e-10)


def test_a_step_retains_dropout(build):
    model, tokens, state = build(dropout=0.5), pad(sequences(3), 4, False).expand(2, -1), {}
    with torch.inference_mode():
        model(tokens, incremental_state=state)
        model.make_generation_fast_(retain_dropout=True, retain_dropout_modules="CausalDecoder")
        one, other = model.decoder.step(torch.tensor([5, 5]), state)
    assert not torch.equal(one, other)


def test_a_state_loads_into_an_equal_model_of_any_length_and_no_other(build):
    tokens, model = pad(sequences(6), 7, False), build()
    longer = build(seed=2, tokens_per_sample=99, dropout=0.3)
    longer.load_state_dict(model.state_dict())
    assert torch.equal(longer(tokens)[0], model(tokens)[0])
    with pytest.raises(ValueError, match="the checkpoint has attention_momentum=0.5; the model was built with attention_mom"):
        model.load_state_dict(build(attention_momentum=0.5).state_dict())


# the command line

SIZES = {
    "momentum_lm": (256, 1024, 5, 4),
    "momentum_lm_tiny": (64, 128, 2, 2),
    "momentum_lm_copy": (256, 1024, 4, 8),
    "momentum_lm_mnist": (256, 1024, 8, 8),
    "momentum_lm_cifar10": (256, 1024, 16, 8),
}


@pytest.fixture
def parse() -> Build:
    """The model for a command line."""

    def parse(*arguments: str) -> MomentumLmModel:
        line = ["--task=copy", *arguments]
        config = convert_namespace_to_omegaconf(options.parse_args_and_arch(options.get_training_parser(), line))
        return models.build_model(config.model, setup_task(config.task))

    return parse


def test_the_presets_are_registered_for_the_model():
    assert {name for name, model in ARCH_MODEL_REGISTRY.items() if model is MomentumLmModel} == set(SIZES)


@pytest.mark.parametrize("arch", SIZES)
@pytest.mark.filterwarnings(r"ignore:\s*'config' is validated:UserWarning")
def test_a_preset_has_its_sizes(parse, arch):
    decoder = parse(f"--arch={arch}", "--tokens-per-sample=40").decoder
    layer, layers = decoder.layers[0], len(decoder.layers)
    made = (decoder.embedding.embedding_dim, layer.feed_forward.ffn[0].out_features, layers, layer.self_attn.num_heads)
    assert made == SIZES[arch]
    assert decoder.max_positions() == 40
    assert not any("encoder_attn" in name for name, _ in decoder.named_parameters())


@pytest.mark.filterwarnings(r"ignore:\s*'config' is validated:UserWarning")
def test_the_copy_preset_has_the_momenta_and_step_sizes_of_table_1(parse):
    cfg = parse("--arch=momentum_lm_copy", "--connection=adaptive").cfg
    assert (cfg.attention_momentum, cfg.attention_step_size) == (0.1, 0.6)
    assert (cfg.connection_momentum, cfg.connection_step_size) == (0.99, 0.99)
    assert cfg.dropout == 0  # no sequence is seen twice
