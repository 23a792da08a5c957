"""The iterative-refinement model: what its parts read, what padding may not change, what it never produces."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from fairseq.data import Dictionary
from torch import Tensor

from momentum_fairseq import ops
from momentum_fairseq.models import nat_decoder
from momentum_fairseq.models.nat_decoder import uniform_copy
from momentum_fairseq.models.nat_encoder import EncoderOutput, NatEncoder
from momentum_fairseq.modules import ATTENTION_KINDS
from momentum_fairseq.modules.transformer_layer import Velocities
from tests.pairs import pairs

PAD, EOS = 1, 2
ALL = pairs(ATTENTION_KINDS)


def pad(sentences: list[Tensor], width: int, left: bool) -> Tensor:
    """int64 `[B, width]`."""
    rows = [F.pad(s, (width - len(s), 0) if left else (0, width - len(s)), value=PAD) for s in sentences]
    return torch.stack(rows)


def words(*lengths: int, seed: int = 5) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(4, 44, (length,), generator=generator) for length in lengths]


def sources(*lengths: int) -> list[Tensor]:
    """Sentences with EOS; `lengths` count the words."""
    return [F.pad(sentence, (0, 1), value=EOS) for sentence in words(*lengths)]


def forward(model, source: Tensor, target: Tensor, denoising: bool = False) -> dict:
    step_inputs = [None, target.flip(0) if denoising and len(target) == 1 else None, None]
    return model(source, source.ne(PAD).sum(1), target, step_inputs)


def rows_of(output: dict, target: Tensor, sentence: int) -> list[Tensor]:
    """The logits of one sentence in every step, then its length logits."""
    real = target.ne(PAD)
    start, end = int(real[:sentence].sum()), int(real[: sentence + 1].sum())
    return [logits[start:end] for logits in output["steps"]] + [output["length_logits"][sentence]]


# uniform copy


def encoded(tokens: Tensor) -> EncoderOutput:
    """An encoder output whose embedding at each place is the token and the place."""
    padding = tokens.eq(PAD)
    place = torch.arange(tokens.shape[1]).expand_as(tokens)
    embedding = torch.stack([tokens, place], dim=-1).double()
    return EncoderOutput([], embedding, padding, (~padding & tokens.ne(EOS)).sum(1), [])


@pytest.mark.parametrize("left", [False, True])
def test_uniform_copy_is_its_formula_on_either_padding_side(left):
    """Position i copies source word round(i (S−1)/(T−1)), the first one where T = 1."""
    pairs = [(s, t) for s in (1, 2, 3, 7, 10) for t in (1, 2, 3, 4, 7, 9, 40)]
    sentences = sources(*[s for s, _ in pairs])
    copied = uniform_copy(encoded(pad(sentences, 14, left)), torch.tensor([t for _, t in pairs]), 40)
    for row, sentence, (s, t) in zip(copied, sentences, pairs, strict=True):
        expected = [sentence[math.floor(i * (s - 1) / (t - 1) + 0.5) if t > 1 else 0].item() for i in range(t)]
        assert row[:t, 0].tolist() == expected, (s, t)


def test_uniform_copy_reads_the_first_and_the_last_word_and_never_eos_or_padding():
    sentences = sources(5, 1, 9)
    copied = uniform_copy(encoded(pad(sentences, 12, left=True)), torch.tensor([8, 8, 3]), 8)[..., 0]
    assert not torch.isin(copied, torch.tensor([PAD, EOS], dtype=torch.float64)).any()
    for row, sentence, t in zip(copied, sentences, (8, 8, 3), strict=True):
        assert [row[0].item(), row[t - 1].item()] == [sentence[0].item(), sentence[-2].item()]


def test_uniform_copy_of_a_source_without_words_is_defined():
    copied = uniform_copy(encoded(torch.tensor([[PAD, PAD, EOS]])), torch.tensor([3]), 3)
    assert copied[0, :, 0].tolist() == [EOS] * 3


# padding, batch mates, velocity


def check_padding(model, tolerance: float) -> None:
    """A sentence's logits alone, without padding, are those it has in a batch, with padding on either side."""
    source, target = sources(5, 9, 2), words(6, 3, 8, seed=6)
    alone = forward(model, source[0][None], target[0][None])
    expected = rows_of(alone, target[0][None], 0)
    for left in (False, True):
        for width in (10, 15):
            batch = pad(source, width, left)
            padded_target = pad(target, 8 + width - 10, left=False)
            found = rows_of(forward(model, batch, padded_target), padded_target, 0)
            for a, b in zip(found, expected, strict=True):
                torch.testing.assert_close(a, b, rtol=0, atol=tolerance)


@pytest.mark.parametrize(("attention", "connection"), ALL)
def test_padding_side_extra_padding_and_batch_mates_change_no_logits(build_model, attention, connection):
    model = build_model(attention=attention, connection=connection)
    check_padding(model, 1e-5)
    check_padding(model.double(), 1e-11)


@pytest.mark.parametrize("options", [{"normalize_before": True}, {"connection_chain": "separate"}])
def test_padding_changes_no_logits_with_other_layouts(build_model, options):
    check_padding(build_model(attention="momentum", connection="adaptive", **options).double(), 1e-11)


@pytest.mark.parametrize("attention", ["linear", "momentum"])
def test_the_padding_check_fails_where_keys_are_not_masked(build_model, attention, monkeypatch):
    def unmasked(*tensors, key_padding_mask, **numbers):
        return getattr(ops, f"{attention}_attention")(*tensors, **numbers)

    monkeypatch.setattr(f"momentum_fairseq.modules.attention_kinds.{attention}_attention", unmasked)
    with pytest.raises(AssertionError, match="not close"):
        check_padding(build_model(attention=attention), 1e-5)


def test_the_padding_check_fails_where_momentum_takes_the_padded_length(build_model, monkeypatch):
    """Keys are masked, but the weights count all of them (the published code's N)."""

    def padded_length(q, k, v, *, momentum, step_size, key_padding_mask, feature_map):
        q, k = feature_map(q), feature_map(k)
        if key_padding_mask is not None:
            k = k.masked_fill(key_padding_mask[:, None, :, None], 0)
        return ops.momentum_attention(q, k, v, momentum=momentum, step_size=step_size)

    monkeypatch.setattr("momentum_fairseq.modules.attention_kinds.momentum_attention", padded_length)
    with pytest.raises(AssertionError, match="not close"):
        check_padding(build_model(attention="momentum"), 1e-5)


def check_repeated_pass(model) -> None:
    """The second of two equal decoder passes gives what the first gave."""
    source = model.encode(pad(sources(5, 3), 7, left=True))
    lengths = torch.tensor([6, 4])
    padding = torch.arange(6) >= lengths.unsqueeze(1)
    x = uniform_copy(source, lengths, 6)
    first, second = (model.decoder2(x, model.decoder2.memory(source, padding)).hidden for _ in range(2))
    torch.testing.assert_close(second, first, rtol=0, atol=0)


@pytest.mark.parametrize("connection", ["momentum", "adaptive"])
def test_the_velocity_starts_afresh_in_every_pass(build_model, connection):
    check_repeated_pass(build_model(connection=connection))


@pytest.mark.parametrize("connection", ["momentum", "adaptive"])
def test_the_velocity_check_fails_where_it_is_not_reset(build_model, connection, monkeypatch):
    kept = nat_decoder.Velocities()
    monkeypatch.setattr(nat_decoder, "Velocities", lambda: kept)
    with pytest.raises(AssertionError, match="not equal"):
        check_repeated_pass(build_model(connection=connection))


# structure


def test_the_encoder_input_is_the_scaled_embedding_plus_positions_and_all_layers_are_kept(build_model):
    model = build_model()
    tokens = pad(sources(4, 6), 8, left=True)
    source = model.encode(tokens)
    table = model.encoder.positions.table
    expected = math.sqrt(12) * model.encoder.embedding.weight[tokens[0, 3:]] + table[:5]
    torch.testing.assert_close(source.embedding[0, 3:], expected, rtol=1e-6, atol=1e-6)
    x, padding, velocities = source.embedding, tokens.eq(PAD), Velocities()
    for layer, output in zip(model.encoder.layers, source.layers, strict=True):
        x = layer(x, padding, velocities)
        torch.testing.assert_close(output, x, rtol=0, atol=0)
    assert source.lengths.tolist() == [4, 6]


@pytest.mark.parametrize("decoder", ["decoder1", "decoder2"])
def test_decoder_layer_l_attends_to_encoder_layer_l(build_model, decoder):
    model = build_model(layers=3)
    source = model.encode(pad(sources(4, 6), 8, left=True))
    decoder, query = getattr(model, decoder), torch.randn(2, 5, 12)
    memory = decoder.memory(source, torch.zeros(2, 5, dtype=torch.bool))
    for layer_memory, layer, output in zip(memory.layers, decoder.layers, source.layers, strict=True):
        expected = layer.encoder_attn(query, output, output, source.padding_mask)
        torch.testing.assert_close(layer.encoder_attn.recall(query, layer_memory.source), expected, rtol=1e-5, atol=1e-6)


def test_a_decoder_adds_the_positions_to_its_input(build_model):
    model = build_model()
    source = model.encode(pad(sources(4), 5, left=True))
    padding, x = torch.zeros(1, 3, dtype=torch.bool), torch.randn(1, 3, 12)
    decoder, memory = model.decoder1, model.decoder1.memory(source, padding)
    expected, velocities = x + decoder.positions.table[:3], Velocities()
    for layer, layer_memory in zip(decoder.layers, memory.layers, strict=True):
        expected = layer(expected, None, layer_memory, velocities)
    torch.testing.assert_close(decoder(x, memory).hidden, expected, rtol=0, atol=0)


def test_the_two_decoders_and_the_length_predictor_have_weights_of_their_own(build_model):
    model = build_model()
    pointers = [
        {parameter.data_ptr() for parameter in part.parameters()}
        for part in (model.encoder, model.decoder1, model.decoder2, model.length_predictor)
    ]
    assert len(set.union(*pointers)) == sum(len(part) for part in pointers)


def test_the_steps_are_decoder_1_then_decoder_2_on_its_own_output_and_last_hidden_state(build_model):
    model = build_model(connection="adaptive").double()
    source_tokens, target = pad(sources(5, 3), 7, left=True), pad(words(6, 4), 6, left=False)
    output = forward(model, source_tokens, target)
    source, padding = model.encode(source_tokens), target.eq(PAD)
    memory = model.decoder2.memory(source, padding)
    copied = uniform_copy(source, torch.tensor([6, 4]), 6)
    hidden = model.decoder1(copied, model.decoder1.memory(source, padding)).hidden
    for logits, predicted in zip(output["steps"], output["predictions"], strict=True):
        expected = (hidden @ model.output_projection.weight.T)[~padding]
        torch.testing.assert_close(logits, expected, rtol=1e-10, atol=1e-12)
        best = expected[:, 3:].argmax(-1) + 3
        assert torch.equal(predicted, best)
        tokens = torch.full_like(target, PAD).masked_scatter(~padding, best)
        embedded = math.sqrt(12) * model.target_embedding.weight[tokens]
        hidden = model.decoder2(embedded + hidden, memory).hidden
    assert torch.equal(output["targets"], target[~padding])
    assert output["length_targets"].tolist() == [21, 21]


def test_a_step_input_is_read_in_place_of_the_models_own_output(build_model):
    model = build_model()
    source, target = pad(sources(5, 3), 7, left=True), pad(words(6, 4), 6, left=False)
    free = forward(model, source, target)
    padding = target.eq(PAD)
    corrupted = torch.where(padding, PAD, 4 + (target - 3) % 40)
    forced = model(source, None, target, [None, corrupted, None])
    assert torch.equal(free["steps"][1], forced["steps"][1])
    assert (free["steps"][2] - forced["steps"][2]).abs().max() > 1e-3
    own = torch.full_like(target, PAD).masked_scatter(~padding, free["predictions"][1])
    fed_back = model(source, None, target, [None, own, None])
    assert torch.equal(fed_back["steps"][2], free["steps"][2])


@pytest.mark.parametrize("denoising", [False, True])
def test_the_last_steps_loss_alone_trains_decoder_1_through_the_hidden_state(build_model, denoising):
    model = build_model(connection="adaptive")
    source, target = pad(sources(5, 3), 7, left=True), pad(words(6, 4), 6, left=False)
    step_inputs = [target, target, target] if denoising else [None, None, None]
    output = model(source, None, target, step_inputs)
    F.cross_entropy(output["steps"][-1], output["targets"]).backward()
    for part in (model.decoder1, model.decoder2, model.encoder):
        weights = [p for name, p in part.named_parameters() if name.endswith("weight")]
        assert all(weight.grad is not None and weight.grad.abs().max() > 0 for weight in weights)


def test_the_length_loss_alone_trains_the_length_predictor_alone(build_model):
    model = build_model()
    source, target = pad(sources(5, 3), 7, left=True), pad(words(6, 4), 6, left=False)
    output = forward(model, source, target)
    F.cross_entropy(output["length_logits"], output["length_targets"]).backward()
    trained = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert trained == {"length_predictor.classifier.weight", "length_predictor.classifier.bias"}


def test_adaptive_momentum_is_reported_by_layer_from_the_second_sub_layer_of_a_chain_on(build_model):
    source, target = pad(sources(5, 3), 7, left=True), pad(words(6, 4), 6, left=False)
    model = build_model(connection="adaptive", layers=3)
    momentum = forward(model, source, target)["momentum"]
    later = {f"{part}_layer{i}" for part in ("encoder", "decoder1", "decoder2") for i in range(3)} - {"encoder_layer0"}
    assert set(momentum) == later
    assert all(0 < value < 1 for value in momentum.values())
    separate = build_model(connection="adaptive", layers=3, connection_chain="separate")
    assert set(forward(separate, source, target)["momentum"]) == {name for name in later if name[-1] != "0"}
    assert forward(build_model(connection="momentum"), source, target)["momentum"] == {}


def test_reported_momentum_is_the_mean_over_the_sub_layers_and_real_tokens_of_the_layer(build_model, monkeypatch):
    model = build_model(connection="adaptive", layers=2)
    source, target = pad(sources(5, 3), 9, left=True), pad(words(6, 4), 6, left=False)
    used = []
    original = type(model.encoder.layers[0].connection).forward

    def spy(connection, *arguments):
        x, state = original(connection, *arguments)
        used.append(state.momentum)
        return x, state

    monkeypatch.setattr(type(model.encoder.layers[0].connection), "forward", spy)
    reported = forward(model, source, target)["momentum"]
    real = target.ne(PAD)
    encoder, decoder1 = used[:2], used[2:8]  # one sub-layer in an encoder layer, three in a decoder layer
    assert encoder[0] is decoder1[0] is None
    torch.testing.assert_close(reported["encoder_layer1"], encoder[1].squeeze(-1)[source.ne(PAD)].mean(), rtol=1e-6, atol=0)
    for layer, momenta in ((0, decoder1[1:3]), (1, decoder1[3:])):
        expected = torch.stack([m.squeeze(-1)[real].mean() for m in momenta]).mean()
        torch.testing.assert_close(reported[f"decoder1_layer{layer}"], expected, rtol=1e-6, atol=0)


# decoding


def test_translating_and_refining_equal_the_training_forward(build_model):
    model = build_model(connection="adaptive")
    source, target = pad(sources(5, 3, 8), 9, left=True), pad(words(6, 4, 8), 8, left=False)
    output = forward(model, source, target)
    state = model.translate(model.encode(source), torch.tensor([6, 4, 8]))
    for step in range(4):
        if step:
            state = model.refine(state)
        assert torch.equal(state.tokens[~state.padding_mask], output["predictions"][step])
        assert (state.tokens[state.padding_mask] == PAD).all()
        log_p = F.log_softmax(output["steps"][step], -1).gather(1, output["predictions"][step][:, None])[:, 0]
        scores = model.word_scores(state)
        torch.testing.assert_close(scores[~state.padding_mask], log_p, rtol=1e-5, atol=1e-5)
        assert (scores[state.padding_mask] == 0).all()


def test_a_refinement_with_the_memory_kept_equals_one_with_it_computed_anew(build_model):
    model = build_model()
    source = model.encode(pad(sources(5, 3, 8), 9, left=True))
    state = model.refine(model.translate(source, torch.tensor([6, 4, 8])))
    anew = model.refine(state._replace(memory=model.decoder2.memory(source, state.padding_mask)))
    kept = model.refine(state)
    assert torch.equal(kept.tokens, anew.tokens)
    assert torch.equal(kept.hidden, anew.hidden)


@pytest.mark.parametrize("chosen", [torch.tensor([2, 0]), torch.tensor([1])])
def test_a_refinement_of_some_sentences_equals_theirs_in_the_whole_batch(build_model, chosen):
    model = build_model(connection="adaptive").double()
    state = model.translate(model.encode(pad(sources(5, 3, 8), 9, left=True)), torch.tensor([6, 4, 8]))
    some, all_of_them = model.refine(state.select(chosen)), model.refine(state).select(chosen)
    assert torch.equal(some.tokens, all_of_them.tokens)
    torch.testing.assert_close(some.hidden, all_of_them.hidden, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("block", [1, 100, 1 << 20])
def test_best_words_by_blocks_are_the_plain_argmax_over_ordinary_words(build_model, monkeypatch, block):
    monkeypatch.setattr("momentum_fairseq.models.momentum_nat.PROJECTION_BLOCK", block)
    model = build_model()
    torch.manual_seed(1)
    hidden = torch.randn(5, 7, 12)
    padding = torch.arange(7) >= torch.tensor([[7], [1], [3], [6], [2]])
    plain = model.output_projection(hidden)
    plain[..., :3] = -torch.inf
    expected = plain.argmax(-1).masked_fill(padding, PAD)
    assert torch.equal(model.best_words(hidden, padding), expected)


def test_bos_eos_and_padding_are_never_produced_even_where_they_score_best(build_model):
    model = build_model()
    with torch.no_grad():
        model.output_projection.weight[:3] *= 1000
    state = model.translate(model.encode(pad(sources(5, 3, 8), 9, left=True)), torch.tensor([6, 4, 8]))
    plain = model.output_projection(state.hidden).argmax(-1)
    assert (plain < 3)[~state.padding_mask].any()
    for _ in range(3):
        assert (state.tokens[~state.padding_mask] >= 3).all()
        state = model.refine(state)
    source, target = pad(sources(5), 6, left=True), pad(words(6), 6, left=False)
    assert all((predicted >= 3).all() for predicted in forward(model, source, target)["predictions"])


# precision


@pytest.mark.parametrize(("attention", "connection"), ALL)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_model_trains_and_decodes_in_other_precisions(build_model, attention, connection, dtype):
    model = build_model(attention=attention, connection=connection)
    source, target = pad(sources(5, 3), 7, left=True), pad(words(6, 4), 6, left=False)
    exact = forward(model, source, target)["steps"][0]
    other = copy.deepcopy(model).to(dtype)
    output = forward(other, source, target)
    assert output["steps"][0].dtype == dtype
    tolerance = 1e-4 if dtype == torch.float64 else 0.1
    torch.testing.assert_close(output["steps"][0].float(), exact, rtol=0, atol=tolerance)
    sum(logits.float().square().mean() for logits in output["steps"]).backward()
    gradients = [parameter.grad for name, parameter in other.named_parameters() if "length_predictor" not in name]
    assert all(gradient.isfinite().all() and gradient.dtype == dtype for gradient in gradients)
    state = other.refine(other.translate(other.encode(source), torch.tensor([6, 4])))
    assert other.word_scores(state).dtype == torch.float32
    assert other.word_scores(state).isfinite().all()


# embeddings and dictionaries


def test_embeddings_are_shared_by_flag(build_model):
    def matrices(**flags: bool) -> list[int]:
        model = build_model(**flags)
        parts = (model.encoder.embedding, model.target_embedding, model.output_projection)
        return [part.weight.data_ptr() for part in parts]

    source, target, output = matrices()
    assert len({source, target, output}) == 3
    source, target, output = matrices(share_decoder_input_output_embed=True)
    assert source != target == output
    source, target, output = matrices(share_all_embeddings=True)
    assert source == target == output


def test_sharing_all_embeddings_over_different_dictionaries_is_refused(build_model, dictionary):
    model, other = build_model(), Dictionary()
    other.add_symbol("elsewhere")
    model.cfg.share_all_embeddings = True
    with pytest.raises(ValueError, match="--share-all-embeddings needs a joined dictionary"):
        type(model)(model.cfg, other, dictionary)


def test_different_dictionaries_have_embeddings_of_their_own_sizes(build_model, dictionary):
    model, other = build_model(), Dictionary()
    other.add_symbol("elsewhere")
    built = type(model)(model.cfg, other, dictionary)
    assert [len(built.encoder.embedding.weight), len(built.target_embedding.weight)] == [5, 44]


def test_a_dictionary_that_does_not_begin_with_the_special_symbols_is_refused(build_model, dictionary):
    model, other = build_model(), Dictionary()
    other.add_symbol("word")
    other.eos_index = other.add_symbol("</end>")
    with pytest.raises(ValueError, match="must begin with BOS, padding and EOS"):
        type(model)(model.cfg, dictionary, other)


@pytest.mark.parametrize("share", [False, True])
def test_padding_embeds_to_zero(build_model, share):
    model = build_model(share_all_embeddings=share)
    assert (model.encoder.embedding.weight[PAD] == 0).all()
    assert (model.target_embedding.weight[PAD] == 0).all()
    assert isinstance(model.encoder, NatEncoder)


# checkpoints


def test_a_state_loads_into_an_equal_model(build_model):
    model, other = build_model(seed=1), build_model(seed=2)
    other.load_state_dict(copy.deepcopy(model.state_dict()))
    source, target = pad(sources(5), 6, left=True), pad(words(6), 6, left=False)
    assert torch.equal(forward(model, source, target)["steps"][-1], forward(other, source, target)["steps"][-1])


@pytest.mark.parametrize(
    ("option", "value"),
    [("attention", "softmax"), ("attention_momentum", 0.5), ("connection", "adaptive"), ("heads", 4), ("layers", 1)],
)
def test_a_state_of_a_model_with_another_option_is_refused_by_its_name(build_model, option, value):
    saved = build_model(**{option: value})
    own = getattr(build_model().cfg, option)
    with pytest.raises(ValueError) as error:
        build_model().load_state_dict(saved.state_dict())
    assert f"the checkpoint has {option}={value}; the model was built with {option}={own}" in str(error.value)


def test_dropout_and_the_longest_lengths_may_differ(build_model):
    build_model(dropout=0.3, max_source_positions=99).load_state_dict(build_model().state_dict())


def test_a_state_of_tensors_only_is_taken(build_model):
    tensors = {k: v for k, v in build_model(seed=2).state_dict().items() if isinstance(v, Tensor)}
    model = build_model()
    model.load_state_dict(tensors)
    assert torch.equal(model.target_embedding.weight, tensors["target_embedding.weight"])
