"""What is particular to a family: shortcuts, causality, published sizes, stable names."""

import pytest
import torch
from torch import nn

from etude.errors import BadValueError, UnknownNameError
from etude.tasks import models


def zeroed(*layers):
    for layer in layers:
        for parameter in layer.parameters():
            nn.init.zeros_(parameter)


def count(model):
    return sum(p.numel() for p in model.parameters())


def test_mlp_layer_with_a_shortcut_is_the_identity_when_its_weights_are_zero():
    layer = models.mlp(inputs=4, outputs=2, depth=2, width=8, residual=True).layers[1]
    zeroed(layer.linear)
    x = torch.randn(3, 8)
    assert torch.equal(layer(x), x)


def test_cnn_layer_with_a_shortcut_passes_its_input_when_its_kernel_is_zero():
    net = models.cnn(channels=2, size=2, outputs=2, width=4, depth=2, residual=True)
    zeroed(net.convs[0].conv, net.convs[1].conv)
    x = torch.randn(3, 2, 2, 2)
    projected = net.convs[0](x)
    torch.testing.assert_close(projected, net.convs[0].shortcut(x).relu())
    assert torch.equal(net.convs[1](projected), projected)


def test_resnet_block_is_the_identity_for_positive_input_when_its_kernels_are_zero():
    net = models.resnet(channels=4, outputs=2, width=4, stages=1, normalisation="none")
    block = net.stages[0][0]
    zeroed(block.conv1, block.conv2)
    x = torch.rand(3, 4, 8, 8)
    assert torch.equal(block(x), x)


def test_recurrent_layer_with_a_shortcut_is_the_identity_when_its_weights_are_zero():
    for cell in ("rnn", "lstm", "gru"):
        net = models.recurrent(cell, inputs=4, outputs=2, depth=2, width=8, residual=True)
        zeroed(net.layers[1].cell)
        x = torch.randn(3, 5, 8)
        assert torch.equal(net.layers[1](x), x)


def test_transformer_block_is_the_identity_when_what_it_adds_is_zero():
    block = models.transformer(inputs=4, context=5, outputs=2).blocks[0]
    zeroed(block.attention.out, block.feed_forward.down)
    x = torch.randn(3, 5, 64)
    assert torch.equal(block(x), x)


def test_transformer_block_without_its_stream_keeps_nothing_of_its_input():
    for branch in ("attention", "feed_forward"):
        block = models.transformer(inputs=4, context=5, outputs=2, residual=False).blocks[0]
        last = block.attention.out if branch == "attention" else block.feed_forward.down
        zeroed(last)
        a, b = block(torch.randn(3, 5, 64)), block(torch.randn(3, 5, 64))
        assert torch.equal(a, b)


def test_resnet_18_and_20_have_their_published_sizes():
    eighteen = models.resnet(channels=3, outputs=1000, depth=2, width=64, stages=4, stem="large")
    assert count(eighteen) == 11_689_512  # torchvision's documentation of resnet18
    assert len([m for m in eighteen.modules() if isinstance(m, nn.Conv2d)]) == 20
    twenty = models.resnet(channels=3, outputs=10, depth=3)
    plain = models.resnet(channels=3, outputs=10, depth=3, residual=False)
    # He et al. 2015 count 0.27 million with shortcuts that have no parameters.
    assert count(plain) == 269_722
    assert count(twenty) - count(plain) == 16 * 32 + 2 * 32 + 32 * 64 + 2 * 64


def test_resnet_stages_halve_the_image():
    net = models.resnet(channels=3, outputs=10, stages=3)
    y = net.stem(torch.randn(2, 3, 32, 32))
    shapes = []
    for stage in net.stages:
        y = stage(y)
        shapes.append(tuple(y.shape[1:]))
    assert shapes == [(16, 32, 32), (32, 16, 16), (64, 8, 8)]
    large = models.resnet(channels=3, outputs=10, stem="large")
    assert large.stem(torch.randn(2, 3, 64, 64)).shape[2:] == (16, 16)


def test_cnn_doubles_its_filters_and_halves_the_image_down_to_two_pixels():
    net = models.cnn(channels=3, size=16, outputs=10, depth=5, width=4)
    y, shapes = torch.randn(2, 3, 16, 16), []
    for conv in net.convs:
        y = conv(y)
        shapes.append(tuple(y.shape[1:]))
    assert shapes == [(4, 8, 8), (8, 4, 4), (16, 2, 2), (32, 2, 2), (32, 2, 2)]
    assert net.dense.linear.in_features == 32 * 4


def test_cnn_hidden_units():
    net = models.cnn(channels=1, size=8, outputs=10, hidden=7)
    assert net.head.in_features == 7


@pytest.mark.parametrize("causal", [True, False])
def test_a_causal_transformer_does_not_see_what_comes(causal):
    net = models.transformer(
        vocabulary=9, context=8, outputs=9, every_step=True, causal=causal
    ).eval()
    first = torch.randint(9, (1, 8), generator=torch.Generator().manual_seed(0))
    second = first.clone()
    second[0, 5:] = (second[0, 5:] + 1) % 9
    a, b = net(first)[0], net(second)[0]
    assert torch.equal(a[:5], b[:5]) == causal
    assert not torch.equal(a[5:], b[5:])


def test_recurrent_networks_do_not_see_what_comes():
    for cell in ("rnn", "lstm", "gru"):
        net = models.recurrent(cell, vocabulary=9, outputs=9, every_step=True)
        first = torch.zeros(1, 8, dtype=torch.long)
        second = first.clone()
        second[0, 5:] = 1
        a, b = net(first)[0], net(second)[0]
        assert torch.equal(a[:5], b[:5])
        assert not torch.equal(a[5:], b[5:])


@pytest.mark.parametrize("every_step", [True, False])
def test_sequence_models_answer_at_each_step_or_once(every_step):
    for build in (models.rnn, models.lstm, models.gru):
        net = build(inputs=3, outputs=5, every_step=every_step)
        assert net(torch.randn(2, 7, 3)).shape == ((2, 7, 5) if every_step else (2, 5))
    net = models.transformer(inputs=3, context=7, outputs=5, every_step=every_step)
    assert net(torch.randn(2, 7, 3)).shape == ((2, 7, 5) if every_step else (2, 5))


@pytest.mark.parametrize("build", [models.rnn, models.lstm, models.gru])
def test_one_answer_is_read_at_the_last_step(build):
    once, each = build(inputs=3, outputs=5), build(inputs=3, outputs=5, every_step=True)
    each.load_state_dict(once.state_dict())
    x = torch.randn(2, 7, 3)
    torch.testing.assert_close(once(x), each(x)[:, -1])


def test_one_answer_of_a_transformer_is_read_from_the_mean():
    once = models.transformer(inputs=3, context=7, outputs=5)
    each = models.transformer(inputs=3, context=7, outputs=5, every_step=True)
    each.load_state_dict(once.state_dict())
    x = torch.randn(2, 7, 3)
    torch.testing.assert_close(once(x), each(x).mean(1))


def test_a_stack_of_recurrent_layers_equals_torchs_own():
    torch.manual_seed(0)
    net = models.lstm(inputs=3, outputs=5, depth=2, width=6, every_step=True)
    peer = nn.LSTM(3, 6, num_layers=2, batch_first=True)
    peer.load_state_dict(
        {
            f"{key[:-1]}{i}": value
            for i, layer in enumerate(net.layers)
            for key, value in layer.cell.state_dict().items()
        }
    )
    x = torch.randn(2, 7, 3)
    torch.testing.assert_close(net(x), net.head(peer(x)[0]))


def test_attention_equals_torchs_own():
    torch.manual_seed(0)
    attention = (
        models.transformer(inputs=4, context=5, outputs=2, width=8, heads=2).blocks[0].attention
    )
    peer = nn.MultiheadAttention(8, 2, batch_first=True)
    ins = (attention.query, attention.key, attention.value)
    with torch.no_grad():
        peer.in_proj_weight.copy_(torch.cat([layer.weight for layer in ins]))
        peer.in_proj_bias.copy_(torch.cat([layer.bias for layer in ins]))
    peer.out_proj.load_state_dict(attention.out.state_dict())
    x = torch.randn(3, 5, 8)
    expected, _ = peer(x, x, x, need_weights=False)
    torch.testing.assert_close(attention(x), expected, atol=1e-6, rtol=1e-5)


def test_dropout_reaches_the_attention_weights():
    attention = models.transformer(inputs=4, context=5, outputs=2, dropout=0.5).blocks[0].attention
    x = torch.randn(2, 5, 64)
    assert not torch.equal(attention(x), attention(x))
    attention.eval()
    assert torch.equal(attention(x), attention(x))


def test_heads_act():
    torch.manual_seed(0)
    x = torch.randn(2, 5, 4)
    outputs = []
    for heads in (1, 4):
        torch.manual_seed(0)
        net = models.transformer(
            inputs=4, context=5, outputs=2, width=8, heads=heads, initialisation="he_normal"
        )
        outputs.append(net(x))
    assert not torch.equal(*outputs)


def test_default_of_the_transformer_is_gpt_2s():
    net = models.transformer(vocabulary=300, context=200, outputs=300, width=256, depth=8)
    assert net.blocks[0].attention.query.weight.std().item() == pytest.approx(0.02, rel=0.03)
    assert net.blocks[0].attention.out.weight.std().item() == pytest.approx(0.02 / 4, rel=0.03)
    assert net.embedding.weight.std().item() == pytest.approx(0.02, rel=0.03)
    assert not net.head.bias.any()


def test_autoencoder_passes_through_its_code():
    net = models.autoencoder(inputs=64, code=3)
    x = torch.randn(5, 1, 8, 8)
    assert net.encode(x).shape == (5, 3)
    torch.testing.assert_close(net(x), net.head(net.decoder(net.encode(x))))
    assert len(net.encode(x).unique(dim=0)) == 5
    assert len(net(x).unique(dim=0)) == 5


def test_names_that_other_code_selects_by():
    names = dict(models.lstm(vocabulary=9, outputs=9, depth=2).named_parameters())
    assert "layers.1.cell.weight_hh_l0" in names
    names = dict(models.cnn(channels=1, size=8, outputs=2).named_parameters())
    assert {"convs.0.conv.weight", "dense.linear.weight", "head.weight"} <= set(names)
    names = dict(models.mlp(inputs=1, outputs=2).named_parameters())
    assert {"layers.0.linear.weight", "layers.1.linear.bias", "head.bias"} <= set(names)


class TestRefusals:
    def test_shortcuts_that_would_join_nothing(self):
        with pytest.raises(BadValueError, match=r"residual=True with depth=1.*give depth >= 2"):
            models.mlp(inputs=4, outputs=2, depth=1, residual=True)
        with pytest.raises(BadValueError, match="changes the width from 8 to 64"):
            models.gru(inputs=8, outputs=2, residual=True)
        assert models.gru(vocabulary=8, outputs=2, residual=True).layers[0].residual

    def test_a_code_that_is_no_bottleneck(self):
        with pytest.raises(BadValueError, match="code=64 is not a bottleneck for 64 inputs"):
            models.autoencoder(inputs=64, code=64)

    def test_heads_that_do_not_divide_the_width(self):
        with pytest.raises(BadValueError, match="width=64 cannot be divided among heads=5"):
            models.transformer(inputs=4, context=4, outputs=2, heads=5)

    def test_names(self):
        with pytest.raises(UnknownNameError, match="unknown cell 'lstmm': did you mean 'lstm'"):
            models.recurrent("lstmm", inputs=1, outputs=1)
        with pytest.raises(BadValueError, match=r"stem='big' has no meaning here.*stem='large'"):
            models.resnet(channels=1, outputs=1, stem="big")
        with pytest.raises(BadValueError, match="size=1 is out of bounds"):
            models.cnn(channels=1, size=1, outputs=1)
