import sysconfig

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn import datasets

from etude.errors import BadTypeError, BadValueError, MissingExtraError, TaskError
from etude.tasks.bundled import digits, patches, questions, tabular, text
from etude.tasks.bundled.examples import halves, standardise

DRAWN = [
    digits.images,
    digits.rows,
    digits.copies,
    tabular.cancer,
    tabular.diabetes,
    questions.about_digits,
]
ALL = [*DRAWN, patches.origin, patches.rows, text.characters]


@given(count=st.integers(2, 300), share=st.floats(0.001, 0.999), seed=st.integers(0, 50))
def test_halves_are_disjoint_and_complete(count, share, seed):
    train, valid = halves(count, share, seed)
    assert sorted([*train.tolist(), *valid.tolist()]) == list(range(count))
    assert len(train) >= 1
    assert len(valid) >= 1
    assert abs(len(valid) - share * count) <= 1


def test_standardise_uses_the_training_part_alone():
    train, valid = torch.randn(200, 3) * 4 + 1, torch.randn(50, 3) + 9
    x, held = standardise(train, valid, axes=(0,))
    torch.testing.assert_close(x.mean(0), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(x.std(0, correction=0), torch.ones(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(held * train.std(0, correction=0) + train.mean(0), valid)
    constant, _ = standardise(torch.full((4, 1), 7.0), torch.zeros(1, 1), axes=(0,))
    assert torch.equal(constant, torch.zeros(4, 1))


@pytest.mark.parametrize("load", ALL)
def test_is_the_same_every_time(load):
    for first, second in zip(load().train, load().train, strict=True):
        assert torch.equal(first, second)


@pytest.mark.parametrize("load", ALL)
def test_leaves_the_random_state_alone(load):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    load()
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("load", DRAWN)
def test_share_and_seed_choose_the_held_out_samples(load):
    base, other = load(), load(split_seed=1)
    assert len(base.valid[1]) == len(other.valid[1])
    assert not torch.equal(base.valid[0], other.valid[0])
    assert len(load(valid_share=0.5).valid[1]) > len(base.valid[1])
    with pytest.raises(BadValueError, match="valid_share=1 is out of bounds"):
        load(valid_share=1)
    with pytest.raises(BadTypeError, match="split_seed=True is a bool"):
        load(split_seed=True)


def test_digits_are_scikit_learns():
    raw = datasets.load_digits()
    found = digits.images()
    x = torch.cat([found.train[0], found.valid[0]]).flatten(1)
    scale = raw.images.reshape(len(raw.images), -1)
    order = torch.cat(halves(len(scale), 0.2, 0)).numpy()
    assert np.corrcoef(x.numpy().ravel(), scale[order].ravel())[0, 1] > 1 - 1e-9
    labels = torch.cat([found.train[1], found.valid[1]]).numpy()
    assert (labels == raw.target[order]).all()
    assert torch.equal(digits.rows().train[0].flatten(1), found.train[0].flatten(1))


@pytest.mark.parametrize(
    ("load", "raw"),
    [(tabular.cancer, datasets.load_breast_cancer), (tabular.diabetes, datasets.load_diabetes)],
)
def test_tables_are_scikit_learns(load, raw):
    features, target = raw(return_X_y=True)
    order = torch.cat(halves(len(features), 0.2, 0)).numpy()
    x, y = (torch.cat(pair).numpy() for pair in zip(load().train, load().valid, strict=True))
    for column in range(features.shape[1]):
        assert np.corrcoef(x[:, column], features[order, column])[0, 1] > 1 - 1e-6
    assert np.corrcoef(y.ravel(), target[order])[0, 1] > 1 - 1e-6


class TestPatches:
    def test_training_and_validation_lie_in_strips_that_do_not_touch(self):
        # Every pixel of a picture that holds its own number shows where a patch was cut.
        width = 640
        picture = torch.arange(427 * width).view(1, 427, width).expand(3, -1, -1).float()
        columns = {True: set(), False: set()}
        for strip in range(width // patches.STRIP):
            start = strip * patches.STRIP
            cut, _ = patches._cut(picture[:, :, start : start + patches.STRIP], 16, 4)
            columns[patches.held_out(strip)] |= set((cut[:, 0] % width).flatten().int().tolist())
        assert columns[True] == {c for s in (2, 7) for c in range(s * 64, s * 64 + 64)}
        assert not columns[True] & columns[False]

    def test_labels_are_the_height_a_patch_was_cut_at(self):
        picture = torch.arange(427.0).view(1, 427, 1).expand(3, -1, 64)
        cut, labels = patches._cut(picture, 16, 4)
        assert torch.equal((cut[:, 0, 0, 0] * 4 / 427).floor().long(), labels)
        assert torch.equal((cut[:, 0, -1, 0] * 4 / 427).floor().long(), labels)

    def test_pixels_are_the_pictures(self):
        found = patches.origin()
        china = torch.tensor(datasets.load_sample_image("china.jpg")).permute(2, 0, 1) / 255
        strip = china[:, :, 128:192]
        patch = found.valid[0][0]
        raw = strip[:, :16, :16]
        slope = patch.std((1, 2)) / raw.std((1, 2))
        torch.testing.assert_close(
            patch - patch.mean((1, 2), keepdim=True),
            (raw - raw.mean((1, 2), keepdim=True)) * slope[:, None, None],
            atol=1e-4,
            rtol=1e-4,
        )

    def test_a_row_is_the_picture_from_left_to_right(self):
        picture = torch.arange(427 * 64).view(1, 427, 64).float()
        cut, labels = patches._cut_rows(picture, 8, 4)
        for row, band in zip(cut, labels.tolist(), strict=True):
            whole = torch.cat(list(row), dim=2)
            top = int(whole[0, 0, 0]) // 64
            assert torch.equal(whole, picture[:, top : top + 8])
            assert top * 4 // 427 == band == (top + 7) * 4 // 427

    def test_rows_keep_the_strips_apart(self):
        x, held = patches.rows().train[0], patches.rows().valid[0]
        assert len(x) == 4 * len(held)
        assert {row.tobytes() for row in x.numpy()}.isdisjoint(
            row.tobytes() for row in held.numpy()
        )

    def test_channels_are_standardised_by_the_training_part(self):
        rows = patches.rows().train[0]
        torch.testing.assert_close(rows.mean((0, 1, 3, 4)), torch.zeros(3), atol=1e-4, rtol=0)
        x = patches.origin().train[0]
        torch.testing.assert_close(x.mean((0, 2, 3)), torch.zeros(3), atol=1e-4, rtol=0)
        torch.testing.assert_close(x.std((0, 2, 3)), torch.ones(3), atol=1e-3, rtol=0)

    @given(size=st.integers(4, patches.LARGEST), bands=st.integers(1, 6))
    def test_every_size_gives_every_class(self, size, bands):
        picture = torch.zeros(1, 427, 64)
        cut, labels = patches._cut(picture, size, bands)
        assert cut.shape[1:] == (1, size, size)
        assert set(labels.tolist()) == set(range(bands))

    def test_size_and_bands_act(self):
        small = patches.origin(size=8, bands=2)
        assert small.train[0].shape[1:] == (3, 8, 8)
        assert sorted(set(small.train[1].tolist())) == [0, 1, 2, 3]
        assert small.facts["outputs"] == 4
        with pytest.raises(BadValueError, match=r"size=33 is out of bounds: .* from 4 to 32"):
            patches.origin(size=33)
        with pytest.raises(BadValueError, match="bands=7 is out of bounds"):
            patches.origin(bands=7)

    def test_without_pillow(self, monkeypatch):
        def missing(name):
            raise ImportError("The Python Imaging Library (PIL) is required")

        monkeypatch.setattr(datasets, "load_sample_image", missing)
        patches._load.cache_clear()
        with pytest.raises(MissingExtraError, match="needs pillow: pip install pillow"):
            patches.origin()


class TestText:
    def test_encoding_comes_back(self):
        python = text.source("heapq")
        known = "".join(c if c in text.SYMBOLS else "\N{REPLACEMENT CHARACTER}" for c in python)
        assert text.decode(text.encode(python)) == known
        assert len(set(text.SYMBOLS)) == 96
        assert text.VOCABULARY == 97

    @given(symbols=st.text(max_size=50))
    def test_every_character_has_a_number(self, symbols):
        numbers = text.encode(symbols)
        assert len(numbers) == len(symbols)
        for symbol, number in zip(symbols, numbers.tolist(), strict=True):
            assert (number == 96) == (symbol not in text.SYMBOLS)

    def test_source_is_the_modules_own(self):
        import heapq
        from pathlib import Path

        assert text.source("heapq") == Path(heapq.__file__).read_text(encoding="utf-8")

    def test_validation_is_other_modules(self):
        assert not set(text.TRAIN_MODULES) & set(text.VALID_MODULES)

    def test_targets_are_one_character_further_on(self):
        x, y = text.characters(context=16, characters=1_000).train
        running = text.encode("\n".join(map(text.source, text.TRAIN_MODULES)))
        assert torch.equal(x.flatten(), running[: x.numel()])
        assert torch.equal(y.flatten(), running[1 : x.numel() + 1])

    def test_context_and_characters_act(self):
        small = text.characters(context=10, characters=5_000)
        assert small.train[0].shape == (499, 10)
        assert small.valid[0].shape == (49, 10)
        assert small.facts["context"] == 10
        with pytest.raises(BadValueError, match=r"characters=10 is out of bounds: .*from 1000 to"):
            text.characters(characters=10)
        with pytest.raises(BadValueError, match=r"context=100 is out of bounds: .*from 1 to 99"):
            text.characters(context=100, characters=1_000)

    def test_a_python_without_its_source(self, monkeypatch, tmp_path):
        monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
        with pytest.raises(TaskError, match="no source of its module 'heapq'"):
            text.source("heapq")
        (tmp_path / "heapq").mkdir()
        (tmp_path / "heapq" / "__init__.py").write_text("x = 1", encoding="utf-8")
        assert text.source("heapq") == "x = 1"


class TestQuestions:
    def read(self, part, **options):
        """Return (digit, words of the question, answer) of each sample."""
        pictures, symbols, answers = part
        found = digits.images(**options)
        known = {
            picture.tobytes(): int(label)
            for images, labels in (found.train, found.valid)
            for picture, label in zip(images.numpy(), labels, strict=True)
        }
        for picture, question, answer in zip(pictures.numpy(), symbols, answers, strict=True):
            text_of = text.decode(question).strip()
            yield known[picture.tobytes()], text_of, bool(answer)

    def test_answers_are_right(self):
        for digit, asked, answer in self.read(questions.about_digits().valid):
            kind, word = asked.removesuffix("?").rsplit(" ", 1)
            number = questions.WORDS.index(word)
            right = {
                "is it": digit == number,
                "is it more than": digit > number,
                "is it less than": digit < number,
                "is it near": abs(digit - number) <= 1,
            }
            assert answer == right[kind], (digit, asked)

    def test_half_of_the_answers_to_each_question_are_yes(self):
        _, symbols, answers = questions.about_digits(questions=40).train
        _, which = symbols.unique(dim=0, return_inverse=True)
        count = which.bincount().double()
        assert len(count) == 38  # none is more than nine, none less than zero
        share = which.bincount(weights=answers.double()) / count
        assert ((share - 0.5).abs() < 5 * 0.5 / count.sqrt()).all()

    def test_no_picture_is_in_both_parts(self):
        found = questions.about_digits()
        assert {p.tobytes() for p in found.train[0].numpy()}.isdisjoint(
            p.tobytes() for p in found.valid[0].numpy()
        )

    def test_questions_act_and_one_picture_suffices(self):
        assert len(questions.about_digits(questions=1).train[2]) == 1438
        alone = questions.about_digits(valid_share=1e-9, questions=50).valid
        assert len(alone[2]) == 50
        assert len(list(self.read(alone, valid_share=1e-9))) == 50
        with pytest.raises(BadValueError, match="questions=0 is out of bounds"):
            questions.about_digits(questions=0)
