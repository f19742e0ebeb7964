"""The CPU's own products and head against torch's, in float64 where figures are compared."""

import platform
import resource

import pytest

torch = pytest.importorskip("torch", reason="the built-in trainer needs the extra `torch`")

import torch.nn.functional as F  # noqa: E402
from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from runners import gpt, gpt_cpu  # noqa: E402

SIZES = st.integers(1, 70)


def drawn(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def close(ours, exact, tolerance=3e-6):
    assert ours.shape == exact.shape
    assert (ours.double() - exact).abs().max() <= tolerance * max(1.0, exact.abs().max().item())


@settings(deadline=None, max_examples=40)
@given(n=SIZES, rows=SIZES, columns=SIZES, lead=st.booleans())
def test_a_product_and_its_gradients_are_those_of_float32(n, rows, columns, lead):
    x, w, g = drawn(n, columns), drawn(rows, columns, seed=1), drawn(n, rows, seed=2)
    a, b = x.clone().requires_grad_(), w.clone().requires_grad_()
    y = gpt_cpu.linear(a[None] if lead else a, b)
    assert y.shape == ((1, n, rows) if lead else (n, rows))
    (y.view(n, rows) * g).sum().backward()
    close(y.view(n, rows).detach(), x.double() @ w.double().T)
    close(a.grad, g.double() @ w.double())
    close(b.grad, g.double().T @ x.double())


def test_a_product_rounds_as_float32_does_and_not_as_bfloat16():
    x, w = drawn(256, 64), drawn(128, 64, seed=1)
    exact = x.double() @ w.double().T
    assert (gpt_cpu.linear(x, w).double() - exact).abs().max() / exact.abs().max() < 1e-6


def test_equal_input_gives_equal_bits_wherever_it_lies():
    x, w, g = drawn(300, 64), drawn(96, 64, seed=1), drawn(300, 96, seed=2)
    bits = set()
    for offset in range(5):
        a = torch.empty(300 * 64 + offset)[offset:].view(300, 64).copy_(x).requires_grad_()
        b = w.clone().requires_grad_()
        y = gpt_cpu.linear(a, b)
        grads = torch.autograd.grad(y, (a, b), g)
        bits.add(tuple(t.detach().numpy().tobytes() for t in (y, *grads)))
    assert len(bits) == 1


def test_several_seeds_at_once_are_each_alone():
    x, w = drawn(3, 20, 16), drawn(3, 24, 16, seed=1)

    def loss(w, x):
        return gpt_cpu.linear(x, w).square().sum()

    together = torch.func.vmap(torch.func.grad(loss))(w, x)
    alone = torch.stack([torch.func.grad(loss)(w[i], x[i]) for i in range(3)])
    assert torch.equal(together, alone)
    shared = torch.func.vmap(gpt_cpu.linear, in_dims=(0, None))(x, w[0])
    assert torch.equal(shared, torch.stack([gpt_cpu.linear(x[i], w[0]) for i in range(3)]))


@pytest.mark.parametrize("softcap", [0.0, 5.0, 30.0, 200.0])
@pytest.mark.parametrize("scale", [0.3, 30.0])
def test_the_head_and_its_gradient_are_a_cross_entropys(softcap, scale):
    n, vocab, width = 700, 96, 24
    x, embed = drawn(n, width) * scale, drawn(vocab, width, seed=1)
    targets = torch.randint(vocab, (n,), generator=torch.Generator().manual_seed(3))
    weights = drawn(n, seed=4).abs()
    a, b = x.double().requires_grad_(), embed.double().requires_grad_()
    each = F.cross_entropy(gpt.cap(a @ b.T, softcap), targets, reduction="none")
    exact = torch.autograd.grad((each * weights.double()).sum(), (a, b))
    p, q = x.clone().requires_grad_(), embed.clone().requires_grad_()
    total, found = gpt_cpu.weighted_nats(p, q, targets, weights, softcap)
    close(found, each.detach(), 3e-5)
    for ours, theirs in zip(torch.autograd.grad(total, (p, q)), exact, strict=True):
        close(ours, theirs, 1e-4)
    with torch.no_grad():
        assert torch.equal(gpt_cpu.nats(x, embed, targets, softcap)[: gpt_cpu.ROWS], found[: gpt_cpu.ROWS])


def test_a_target_that_is_next_to_impossible_has_finite_nats():
    x, embed = torch.tensor([[1.0]]), torch.tensor([[-500.0], [500.0]])
    y = torch.tensor([0])
    assert gpt_cpu.nats(x, embed, y, 0.0).item() == pytest.approx(1000)
    assert gpt_cpu.nats(x, embed, y, 30.0).item() == pytest.approx(60, rel=1e-5)
    assert gpt_cpu.nats(x, embed, y, 400.0).item() == pytest.approx(800 * torch.tensor(1.25).tanh().item(), rel=1e-4)


def test_without_onednn_it_is_torchs_product(monkeypatch):
    monkeypatch.setattr(gpt_cpu, "_product", None)
    x, w = drawn(9, 8), drawn(4, 8, seed=1)
    assert torch.equal(gpt_cpu.linear(x, w), F.linear(x, w))
    close(gpt_cpu.by(x, w), x.double() @ w.double().T)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="what is kept is glibc's to keep")
def test_what_one_step_frees_the_next_one_takes_without_faulting_it_in_again():
    gpt_cpu.keep_memory()

    def faults():
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        torch.empty(2 << 20).fill_(1.0)  # 8 MiB, 2048 pages
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    faults()
    assert min(faults() for _ in range(10)) < 200
