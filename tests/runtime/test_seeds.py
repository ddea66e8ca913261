import torch

from g_pt.runtime.seeds import keyed_generator


def first(*key: int) -> int:
    return int(torch.randint(2**62, (1,), generator=keyed_generator(*key)))


def test_every_key_has_its_own_stream():
    keys = [(a,) for a in range(20)] + [(a, b) for a in range(20) for b in range(20)] + [(0, 0, 1), (0, 1, 0)]
    # trailing zeros of a key do not count in numpy's hash: (a, 0) is the stream of (a,)
    distinct = {key if key[-1] or len(key) == 1 else key[:-1] for key in keys}
    assert len({first(*key) for key in distinct}) == len(distinct)


def test_the_same_key_gives_the_same_stream():
    assert first(3, 4) == first(3, 4)
