"""Quantization: through the bytes and back, never worse than rounding, and the baseline's export to the bit."""

import lzma
import zlib

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runners import gptq, quantize
from runners.gptq import Inputs
from runners.quantize import SCHEMES, Scheme

INT6 = SCHEMES["int6_clip"]


def drawn(seed, rows, columns, spread=1.0):
    """Weights with a few large ones, as trained matrices have."""
    rng = np.random.default_rng(seed)
    return (rng.standard_t(3, (rows, columns)) * spread * 0.1).astype(np.float32)


def inputs(seed, columns, tokens=64):
    """Inputs whose channels differ in size and go together, as a layer's do."""
    rng = np.random.default_rng(seed + 1)
    x = rng.normal(size=(tokens, columns)) @ rng.normal(size=(columns, columns)) * rng.lognormal(0, 1.5, columns)
    return Inputs(hessian=x.T @ x, magnitude=np.abs(x).mean(axis=0), tokens=tokens), x


def a_model(seed=0):
    rng = np.random.default_rng(seed)
    return {
        "q": drawn(seed, 2 * 8, 24).reshape(2, 8, 24),
        "up": drawn(seed + 1, 2 * 40, 24).reshape(2, 40, 24),
        "embed": drawn(seed + 2, 50, 24),
        "gain": rng.normal(size=(2, 24)).astype(np.float32),
        "skip": rng.normal(size=(0, 24)).astype(np.float32),
    }


def model_inputs(model, names=("q", "up")):
    return {name: [inputs(i, model[name].shape[-1])[0] for i in range(len(model[name]))] for name in names}


shapes = st.tuples(st.integers(0, 1 << 16), st.integers(1, 6), st.integers(1, 150))


# --- Rounding ----------------------------------------------------------------------------------------------


@given(shapes, st.integers(2, 8), st.sampled_from([0, 1, 5, 64]))
@settings(max_examples=60, deadline=None)
def test_codes_fit_their_bits_and_five_clips_are_never_worse_than_none(shape, width, group):
    weight = drawn(*shape)
    scheme = Scheme(bits=width, group=group)
    found = quantize.quantize(weight, scheme)
    assert np.abs(found.codes).max() <= 2 ** (width - 1) - 1
    for part in quantize._slices(weight.shape[1], group):
        w = weight[:, part]
        step = np.maximum((np.abs(w).max(axis=1) / scheme.most).astype(np.float16), np.float16(2**-24))
        plain = np.clip(np.rint(w / step.astype("f4")[:, None]), -scheme.most, scheme.most)
        unclipped = np.square(w - plain * step.astype("f4")[:, None], dtype="f8").sum(axis=1)
        ours = np.square(w - found.weight(group)[:, part], dtype="f8").sum(axis=1)
        assert (ours <= unclipped * (1 + 1e-6) + 1e-12).all()


def test_a_group_has_its_own_step_and_so_less_error_than_a_row():
    weight = drawn(3, 32, 256) * np.repeat([0.01, 1.0, 0.1, 3.0], 64).astype("f4")
    row = quantize.quantize(weight, INT6)
    group = quantize.quantize(weight, SCHEMES["int6_group"])
    assert group.scales.shape == (32, 4)
    assert row.scales.shape == (32, 1)
    small = slice(0, 64)  # the group of small weights is not at the mercy of the large ones
    ours, rows = (np.square(weight - found)[:, small].sum() for found in (group.weight(64), row.weight(0)))
    assert ours < 0.01 * rows


def test_an_outlier_is_clipped_where_that_serves_its_row():
    weight = np.full((1, 2000), 0.1, np.float32) * np.where(np.arange(2000) % 2, 1, -1).astype("f4")
    weight[0] += np.linspace(-0.05, 0.05, 2000, dtype="f4")
    weight[0, 7] = 2.0
    assert quantize.quantize(weight, INT6).weight(0).max() < 2.0


def test_a_row_of_zeros_stays_zero_and_a_weight_that_is_not_finite_is_refused():
    assert not quantize.quantize(np.zeros((2, 5), "f4"), INT6).weight(0).any()
    for bad in (np.nan, np.inf, 1e9):
        with pytest.raises(ValueError, match=r"NaN|too large"):
            quantize.quantize(np.array([[1.0, bad]], "f4"), INT6)


def test_int8_is_the_baselines_export_to_the_bit():
    """What the challenge's script does to a matrix, written down again."""
    torch = pytest.importorskip("torch")
    weight = drawn(5, 16, 512, spread=5.0)
    weight[3] *= 1e-3  # where its floor on the step shows
    w = torch.from_numpy(weight)
    limit = torch.quantile(w.abs(), 0.9999984, dim=1)
    step = (limit / 127).clamp_min(1 / 127)
    codes = (w.clamp(-limit[:, None], limit[:, None]) / step[:, None]).round().clamp(-127, 127)
    found = quantize.quantize(weight, SCHEMES["int8"])
    assert np.array_equal(found.codes, codes.numpy().astype(np.int16))
    assert np.array_equal(found.weight(0), (codes * step.half().float()[:, None]).numpy())


# --- Calibrated --------------------------------------------------------------------------------------------


@given(shapes, st.sampled_from([0, 7, 64]), st.integers(1, 3), st.sampled_from([1, 16, 128]))
@settings(max_examples=40, deadline=None)
def test_neither_gptq_nor_awq_is_ever_worse_than_rounding_on_the_calibration_loss(shape, group, width, block):
    weight, (given_inputs, _) = drawn(*shape), inputs(shape[0], shape[2], tokens=1 + shape[0] % 90)
    plain = Scheme(bits=width + 2, group=group)
    rounded = gptq.layer_loss(weight - quantize.quantize(weight, plain).weight(group), given_inputs.hessian)
    for method in ("gptq", "awq"):
        scheme = msgspec.structs.replace(plain, method=method)
        found = quantize.quantize(weight, scheme, given_inputs, block=block).weight(group)
        loss = gptq.layer_loss(weight - found, given_inputs.hessian)
        total, least = float(loss.sum()), float(rounded.sum())
        assert total <= least * (1 + 1e-6) + 1e-9
        if method == "gptq":
            assert (loss <= rounded * (1 + 1e-6) + 1e-9).all()


def test_gptq_is_much_better_where_inputs_go_together():
    weight, (given_inputs, x) = drawn(1, 64, 128), inputs(1, 128, tokens=2000)
    error = {}
    for name in ("int6_clip", "awq", "gptq"):
        found = quantize.quantize(weight, SCHEMES[name], given_inputs).weight(0)
        error[name] = np.square(x @ (weight - found).T).sum()
    assert error["gptq"] < 0.5 * error["int6_clip"]
    assert error["awq"] < 0.9 * error["int6_clip"]


def test_the_layer_loss_is_the_squared_error_of_the_outputs():
    given_inputs, x = inputs(2, 30)
    error = drawn(9, 4, 30)
    expected = np.square(x @ error.astype("f8").T).sum(axis=0)
    assert gptq.layer_loss(error, given_inputs.hessian) == pytest.approx(expected)


def direct(weight, step, most, hessian, damping):
    """GPTQ as the paper states it before any blocking: after each column, the inverse Hessian of what is left."""
    w, h = weight.astype("f8").copy(), hessian + damping * np.diag(hessian).mean() * np.eye(len(hessian))
    left = list(np.argsort(-np.diag(hessian), kind="stable"))
    codes = np.zeros(w.shape, int)
    while left:
        inverse = np.linalg.inv(h[np.ix_(left, left)])
        q = left[0]
        codes[:, q] = np.clip(np.rint(w[:, q] / step[:, q]), -most, most)
        w[:, left] -= np.outer(w[:, q] - codes[:, q] * step[:, q], inverse[0] / inverse[0, 0])
        left = left[1:]
    return codes


@pytest.mark.parametrize("block", [1, 5, 128])
def test_gptq_in_blocks_is_the_papers_column_by_column_update(block):
    weight, (given_inputs, _) = drawn(4, 6, 33), inputs(4, 33, tokens=500)
    step = np.broadcast_to(np.abs(weight).max(axis=1, keepdims=True) / 31, weight.shape)
    ours = gptq.solve(weight, step, 31, given_inputs.hessian, 0.01, block)
    assert np.array_equal(ours, direct(weight, step, 31, given_inputs.hessian, 0.01))


def test_a_channel_that_calibration_never_used_is_rounded():
    weight, (given_inputs, _) = drawn(6, 5, 20), inputs(6, 20)
    h = given_inputs.hessian.copy()
    h[7], h[:, 7] = 0, 0
    step = np.full(weight.shape, 0.01)
    codes = gptq.solve(weight, step, 31, h, 0.01, 128)
    assert np.array_equal(codes[:, 7], np.clip(np.rint(weight[:, 7].astype("f8") / 0.01), -31, 31))


def test_too_few_calibration_tokens_still_make_a_solution():
    weight, (given_inputs, _) = drawn(7, 5, 60), inputs(7, 60, tokens=1)
    quantize.quantize(weight, SCHEMES["gptq"], given_inputs, damping=0.0)


# --- The artifact ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SCHEMES)
def test_parameters_come_back_through_the_bytes_with_their_names_shapes_and_exact_gains(name):
    model, scheme = a_model(), SCHEMES[name]
    data = quantize.compress(model, scheme, ["q", "up"], ["embed"], model_inputs(model))
    back = quantize.restore(data)
    assert {n: v.shape for n, v in back.items()} == {n: v.shape for n, v in model.items()}
    assert all(v.dtype == np.float32 for v in back.values())
    assert np.array_equal(back["gain"], model["gain"])
    for matrix in ("q", "up", "embed"):
        assert not np.array_equal(back[matrix], model[matrix])
        assert back[matrix] == pytest.approx(model[matrix], abs=0.35 * float(np.abs(model[matrix]).max()))
    # What is in the bytes is what quantizing each slice gives, not something better.
    rows = msgspec.structs.replace(scheme, bits=8, group=0, method="round")
    assert np.array_equal(back["embed"], quantize.quantize(model["embed"], rows).weight(0))
    first = quantize.quantize(model["up"][1], scheme, model_inputs(model)["up"][1])
    assert np.array_equal(back["up"][1], first.weight(scheme.group))


def test_the_same_model_gives_the_same_bytes_and_quantizing_twice_changes_nothing_at_eight_bits():
    model = a_model()
    once = quantize.compress(model, SCHEMES["int8"], ["q", "up"], ["embed"])
    assert quantize.compress(dict(reversed(model.items())), SCHEMES["int8"], ["q", "up"], ["embed"]) == once


def test_six_bits_take_fewer_bytes_than_eight():
    model = {"q": drawn(0, 256, 256)[None]}
    size = {name: len(quantize.compress(model, SCHEMES[name], ["q"])) for name in ("int8_clip", "int6", "int6_group")}
    assert size["int6"] < size["int6_group"] < size["int8_clip"]
    assert size["int6"] < 256 * 256 * 6 / 8 + 256 * 2 + 1000


def test_a_wrong_request_names_the_parameter():
    model = a_model()
    with pytest.raises(ValueError, match="no parameter 'k'"):
        quantize.compress(model, INT6, ["k"])
    with pytest.raises(ValueError, match="gptq needs 2 sets of inputs for 'q', found 0"):
        quantize.compress(model, SCHEMES["gptq"], ["q"])
    with pytest.raises(ValueError, match="parameter 'q': a matrix of 24 columns, but inputs of 7 channels"):
        quantize.compress(model, SCHEMES["gptq"], ["q"], inputs={"q": [inputs(0, 7)[0]] * 2})
    model["q"][0, 0, 0] = np.nan
    with pytest.raises(ValueError, match="parameter 'q': a matrix with NaN"):
        quantize.compress(model, INT6, ["q"])


@pytest.mark.parametrize("damage", ["cut", "longer", "text", "other"])
def test_a_damaged_artifact_is_one_clear_error(damage):
    raw = lzma.decompress(quantize.compress(a_model(), INT6, ["q", "up"], ["embed"]))
    bad = {
        "cut": zlib.compress(raw[:-5]),
        "longer": zlib.compress(raw + b"x"),
        "text": b"not a model",
        "other": zlib.compress((2).to_bytes(8, "little") + b"{}"),
    }[damage]
    with pytest.raises(ValueError, match="no compressed model: "):
        quantize.restore(bad)
