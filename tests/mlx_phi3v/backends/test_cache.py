"""The KV cache of a batch holds what was put in, for the rows that stay, and makes room in steps."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_phi3v.kv_cache import STEP, fewest_moves

pytestmark = pytest.mark.numeric
HEADS, WIDTH = 2, 3


def batch_cache(backend: str, valid: np.ndarray, layers: int = 2, bits: int = 0) -> Any:
    """An empty cache of that backend for prompts with this padding, bool [B, S]."""
    module = importlib.import_module(f"mlx_phi3v.backend_{backend}.cache")
    return module.Cache([module.KVCache(bits) for _ in range(layers)], valid)


def tensor_of(backend: str) -> Any:
    """What makes the backend's tensor of a numpy array."""
    return importlib.import_module("mlx.core").array if backend == "mlx" else importlib.import_module("torch").from_numpy


def layer_cache(backend: str) -> Any:
    """An empty cache of one layer."""
    return importlib.import_module(f"mlx_phi3v.backend_{backend}.cache").KVCache()


def put(backend: str, cache: Any, layer: int, k: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Keys and values of one layer after these [B, heads, T, D] were appended."""
    tensor = tensor_of(backend)
    if backend == "mlx":
        keys, values = cache.layers[layer].update_and_fetch(tensor(k), tensor(v))
    else:
        keys, values = cache.update(tensor(k), tensor(v), layer)  # as transformers' attention calls it
    return np.asarray(keys), np.asarray(values)


def test_rows_keep_their_keys_and_values_as_others_leave(backend_name: str, rng: np.random.Generator) -> None:
    valid = np.array([[False, False, False, True], [False, True, True, True], [True, True, True, True]])
    cache = batch_cache(backend_name, valid)
    assert cache.lengths.tolist() == [1, 3, 4]
    texts: list[list[np.ndarray]] = [[], [], []]  # of each row that is left: its keys in layer 0, padding included
    steps: list[list[int] | None] = [[0, 1, 2], None, [0, 1], None, [1], None, None]  # rows that stay; None: a token more
    for step, rows in enumerate(steps):
        if step == 0 or rows is None:
            if step:
                cache.append()
            shape = (len(texts), HEADS, 4 if step == 0 else 1, WIDTH)
            k, v = rng.standard_normal(shape, np.float32), rng.standard_normal(shape, np.float32)
            texts = [[*text, row] for text, row in zip(texts, k)]
            for layer, sign in ((0, 1), (1, -1)):
                keys, values = put(backend_name, cache, layer, sign * k, sign * v)
                assert keys.shape == values.shape == (*shape[:2], cache.valid.shape[1], WIDTH)
                np.testing.assert_array_equal(values[:, :, -shape[2] :], sign * v)
                for row, text in enumerate(texts):
                    n = cache.lengths[row]
                    assert cache.valid[row].sum() == n and cache.valid[row, -n:].all()
                    np.testing.assert_array_equal(keys[row, :, -n:], sign * np.concatenate(text, axis=1)[:, -n:])
        else:
            cache.keep_rows(rows)
            texts = [texts[row] for row in rows]
    assert cache.lengths.tolist() == [3 + 4] and len(texts) == 1


def test_columns_that_only_pad_leave_with_their_row(backend_name: str) -> None:
    valid = np.array([[False, False, False, True], [False, False, True, True], [True, True, True, True]])
    cache = batch_cache(backend_name, valid)
    k = np.arange(3 * HEADS * 4 * WIDTH, dtype=np.float32).reshape(3, HEADS, 4, WIDTH)
    for layer in (0, 1):
        put(backend_name, cache, layer, k, k)
    cache.keep_rows([1, 0])
    assert cache.valid.tolist() == [[True, True], [False, True]] and [layer.size() for layer in cache.layers] == [2, 2]
    cache.append()
    keys, _ = put(backend_name, cache, 0, k[:2, :, :1], k[:2, :, :1])
    np.testing.assert_array_equal(keys, np.concatenate([k[[1, 0], :, 2:], k[:2, :, :1]], axis=2))


@pytest.mark.parametrize("longer", ["running", "joining"])
def test_rows_of_another_batch_join(backend_name: str, longer: str, rng: np.random.Generator) -> None:
    """Texts of 1 and 3 tokens, and one of 2 or of 5, which then grow together; in the end one of each batch is left."""
    lengths = [[1, 3], [2 if longer == "running" else 5]]
    caches, texts = [], []
    for of in lengths:
        width = max(of)
        cache = batch_cache(backend_name, np.arange(width) >= width - np.array(of)[:, None])
        k = rng.standard_normal((len(of), HEADS, width, WIDTH)).astype(np.float32)
        for layer in (0, 1):
            put(backend_name, cache, layer, (1 + layer) * k, -k)
        texts += [row[:, width - n :] for row, n in zip(k, of)]
        caches.append(cache)
    cache, other = caches
    cache.join(other)
    assert cache.lengths.tolist() == [1, 3, lengths[1][0]] and cache.valid.sum(1).tolist() == cache.lengths.tolist()
    for _ in range(2):
        cache.append()
        k = rng.standard_normal((len(texts), HEADS, 1, WIDTH)).astype(np.float32)
        texts = [np.concatenate([text, row], axis=1) for text, row in zip(texts, k)]
        for layer in (0, 1):
            keys, values = put(backend_name, cache, layer, (1 + layer) * k, -k)
            assert keys.shape[2] == cache.valid.shape[1] == max(cache.lengths)
            for row, (text, valid) in enumerate(zip(texts, cache.valid)):
                assert valid.tolist() == [False] * (len(valid) - text.shape[1]) + [True] * text.shape[1]
                np.testing.assert_array_equal(keys[row, :, -text.shape[1] :], (1 + layer) * text)
                np.testing.assert_array_equal(values[row, :, -text.shape[1] :], -text)
                assert not keys[row, :, : -text.shape[1]].any() or row < 2  # only zeros are put before a text that joins
        if len(texts) == 3:
            cache.keep_rows([2, 0])
            texts = [texts[2], texts[0]]


@given(first=st.integers(1, 600), more=st.lists(st.integers(1, 300), max_size=4), padding=st.integers(0, 5))
def test_room_is_made_in_steps_and_holds_what_was_there(backend_name: str, first: int, more: list[int], padding: int) -> None:
    tensor, cache = tensor_of(backend_name), layer_cache(backend_name)
    whole = np.zeros((1, 1, 0, 1), np.float32)
    for i, tokens in enumerate([first, *more]):
        new = np.arange(tokens, dtype=np.float32).reshape(1, 1, tokens, 1) + 1000 * (i + 1)
        whole = np.concatenate([whole, new], axis=2)
        keys, values = cache.update_and_fetch(tensor(new), tensor(-new))
        np.testing.assert_array_equal(np.asarray(keys), whole)
        np.testing.assert_array_equal(np.asarray(values), -whole)
        assert cache.size() == whole.shape[2] <= cache.arrays[0].shape[2] < cache.size() + STEP + 5
        if i == 0:
            drop = min(padding, first - 1)
            cache.filter([0], drop)
            whole = whole[:, :, drop:]


def test_a_token_takes_new_room_once_in_a_step(backend_name: str) -> None:
    cache, rooms, token = layer_cache(backend_name), [], tensor_of(backend_name)(np.ones((1, 1, 1, 1), np.float32))
    for _ in range(2 * STEP + 1):
        cache.update_and_fetch(token, token)
        rooms.append(cache.arrays[0].shape[2])
    assert rooms == [STEP] * STEP + [2 * STEP] * STEP + [3 * STEP]


class Texts:
    """A cache beside the keys that each of its rows should hold, [heads, tokens, WIDTH]; the values are their negatives."""

    def __init__(self, backend: str, bits: int, lengths: list[int], random: np.random.Generator) -> None:
        self.backend, self.width, self.random = backend, 16 if bits else WIDTH, random  # 2 heads of 16 make a group
        valid = np.arange(max(lengths)) >= max(lengths) - np.array(lengths)[:, None]
        self.cache = batch_cache(backend, valid, bits=bits)
        self.rows = [np.zeros((HEADS, 0, self.width), np.float32) for _ in lengths]
        self.put(max(lengths))

    def keep(self, rows: list[int]) -> None:
        """Let these rows stay."""
        self.cache.keep_rows(rows)
        self.rows = [self.rows[row] for row in rows]

    def put(self, tokens: int) -> None:
        """Tokens more in every row; the last must be there and be what was put in, or what is packed of it."""
        k = self.random.standard_normal((len(self.rows), HEADS, tokens, self.width), np.float32)
        for layer in range(2):
            keys, values = put(self.backend, self.cache, layer, k, -k)
        for i, new in enumerate(k):
            n = int(self.cache.lengths[i])
            self.rows[i] = np.concatenate([self.rows[i], new], axis=1)[:, -n:]
            step = (self.rows[i].max((0, 2)) - self.rows[i].min((0, 2)))[:, None] / (
                2 ** self.cache.layers[0].bits - 1 or np.inf
            )
            for found, sign in ((keys, 1), (values, -1)):
                error = np.abs(found[i, :, -n:] - sign * self.rows[i])
                assert (error <= step + 1e-6).all() and self.cache.valid[i, -n:].all() and self.cache.valid[i].sum() == n


@pytest.mark.parametrize("bits", [0, 8, 4])
def test_rows_leave_join_and_are_taken_out(backend_name: str, bits: int, rng: np.random.Generator) -> None:
    """An error is at most a step of the range of 32 numbers that are packed together, so many of a token here."""
    one, two, three = (Texts(backend_name, bits, lengths, rng) for lengths in ([3, 300, 40], [7], [500, 20]))
    one.cache.append()
    one.put(1)
    one.cache.keep_rows([2, 0])
    one.rows = [one.rows[2], one.rows[0]]
    one.cache.append(5)
    one.put(5)
    one.cache.join(two.cache, three.cache)
    one.rows += two.rows + three.rows
    assert not two.cache.layers and one.cache.valid.shape[1] == 500
    assert one.cache.lengths.tolist() == [46, 9, 7, 500, 20]
    one.cache.append()
    one.put(1)
    taken, rows, beginning = one.cache.row(1), [one.rows[1]], one.cache.row(1, 4, expected=304)
    one.cache.keep_rows([0, 1, 2])
    one.rows = one.rows[:3]
    one.cache.append(2)
    one.put(2)
    one.cache, one.rows = taken, rows
    assert taken.valid.all() and taken.nbytes() == (
        2 * 2 * HEADS * 10 * one.width * 4 if not bits else 2 * 2 * 10 * 4 * (bits + 2)
    )
    one.cache, one.rows, room = beginning, [one.rows[0][:, :4]], beginning.nbytes()
    one.cache.append(300)
    one.put(300)
    assert one.cache.lengths.tolist() == [304] and one.cache.nbytes() == room  # there was room for them


@given(st.sets(st.integers(0, 20), min_size=1))
def test_rows_that_stay_move_into_places_that_became_free(rows: set[int]) -> None:
    order = fewest_moves(sorted(rows))
    assert {*order} == rows and len(order) == len(rows)
    assert all(row == place or (row >= len(rows) and place not in rows) for place, row in enumerate(order))


@given(data=st.data(), bits=st.sampled_from([0, 8]))
@settings(max_examples=15)
def test_any_rows_leave_and_join(backend_name: str, data: st.DataObject, bits: int) -> None:
    """`put` looks at every row; rows leave in the order that moves few of them, or in any."""
    lengths = st.lists(st.integers(1, 300), min_size=1, max_size=4)
    random = np.random.default_rng(data.draw(st.integers(0, 99)))
    batch = Texts(backend_name, bits, data.draw(lengths), random)
    for _ in range(data.draw(st.integers(1, 6))):
        for joining in data.draw(st.lists(lengths, max_size=2)):
            other = Texts(backend_name, bits, joining, random)
            batch.cache.join(other.cache)
            batch.rows += other.rows
        order = data.draw(st.permutations(range(len(batch.rows))))[: data.draw(st.integers(1, len(batch.rows)))]
        batch.keep(data.draw(st.sampled_from([order, fewest_moves(order)])))
        tokens = data.draw(st.integers(1, 4))
        batch.cache.append(tokens)
        batch.put(tokens)


def test_a_row_that_joins_is_written_where_one_has_left(backend_name: str, rng: np.random.Generator) -> None:
    """No array is made anew while rows leave and join, and no row moves that need not."""
    batch = Texts(backend_name, 0, [40, 90, 100, 30, 20, 60], rng)

    def where() -> list[int]:
        return [address(array) for layer in batch.cache.layers for array in layer.arrays]

    before = where()
    for step, leaving in enumerate([{1}, {0, 5}, {2, 3}, {4}, {0, 1, 2}]):
        batch.keep(fewest_moves([row for row in range(6) if row not in leaving]))
        other = Texts(backend_name, 0, [30 + step] * len(leaving), rng)
        batch.cache.join(other.cache)
        batch.rows += other.rows
        batch.cache.append()
        batch.put(1)
        assert where() == before and len(batch.rows) == batch.cache.layers[0].places == 6
    assert batch.cache.valid.shape[1] < 100  # padding that no row has any more is read no more


def test_room_that_few_rows_use_is_given_back(backend_name: str, rng: np.random.Generator) -> None:
    batch = Texts(backend_name, 0, [700, 20, 20, 20, 20], rng)
    whole = batch.cache.nbytes()
    batch.keep([0, 1])
    assert batch.cache.nbytes() == whole  # 2 of 5
    batch.keep([1])
    assert batch.cache.nbytes() == whole / 5 / 3 and batch.cache.valid.shape[1] == 20
    batch.cache.append()
    batch.put(1)


def address(array: Any) -> int:
    """Where the numbers of a backend's array are."""
    return int(np.asarray(array).__array_interface__["data"][0])


@pytest.mark.parametrize("bits", [8, 4])
def test_both_backends_pack_alike(bits: int, rng: np.random.Generator) -> None:
    mx, torch = pytest.importorskip("mlx.core"), pytest.importorskip("torch")
    caches = {name: importlib.import_module(f"mlx_phi3v.backend_{name}.cache") for name in ("mlx", "torch")}
    x = rng.standard_normal((2, 4, 50, 24), np.float32) * rng.uniform(0.1, 10, (2, 4, 50, 1)).astype(np.float32)
    x[0, :, 0], x[0, :, 1] = 0, 3  # groups of one value
    found = {}
    for name, tensor in (("mlx", mx.array(x)), ("torch", torch.from_numpy(x))):
        packed = caches[name].pack(tensor, bits)
        found[name] = [np.asarray(caches[name].unpack(packed, bits, 4)), *map(np.asarray, packed[1:])]
        assert packed[0].nbytes * 32 == x.nbytes * bits
    step = np.abs(found["mlx"][1]).max()
    for ours, theirs in zip(found["mlx"], found["torch"], strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1.001 * step)
    # A number half-way between two steps may fall to either.
    assert (np.abs(found["mlx"][0] - found["torch"][0]) > 1e-5).mean() < 1e-3
    assert not found["mlx"][0][0, :, 0].any() and np.abs(found["torch"][0][0, :, 1] - 3).max() < 1e-5
