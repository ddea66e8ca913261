import torch
from builders import randomise

from g_pt.model.edges import EdgeMixing
from g_pt.permutations.plans import EdgePart

FROM_SECOND_TO_FIRST, WITHIN = (EdgePart(0, 1, 0, ()),), (EdgePart(0, 0, 0, ()),)


def random_parts(generator, sizes=(5, 4, 3)):
    groups = [torch.randn(2, n, 8, generator=generator, dtype=torch.float64) for n in sizes]
    edges = [torch.randn(2, 4, 5, 6, generator=generator, dtype=torch.float64)]
    return groups, edges


def test_only_groups_with_edges_change(generator):
    mixing = randomise(EdgeMixing(1, 8, 6).double())
    groups, edges = random_parts(generator)
    after, mixed = mixing(groups, edges, FROM_SECOND_TO_FIRST)
    assert [torch.equal(a, b) for a, b in zip(after, groups, strict=True)] == [False, False, True]
    assert mixed[0].shape == edges[0].shape
    assert not torch.equal(mixed[0], edges[0])


def test_a_unit_sees_an_edge_of_its_own_and_no_edge_of_another(generator):
    mixing = randomise(EdgeMixing(1, 8, 6).double())
    groups, edges = random_parts(generator)
    changed = edges[0].clone()
    changed[:, 2, 3] += 1
    (columns, rows, _), _ = mixing(groups, edges, FROM_SECOND_TO_FIRST)
    (columns2, rows2, _), _ = mixing(groups, [changed], FROM_SECOND_TO_FIRST)
    assert (columns != columns2).any(dim=-1).nonzero()[:, 1].unique().tolist() == [3]
    assert (rows != rows2).any(dim=-1).nonzero()[:, 1].unique().tolist() == [2]


def test_edges_within_one_group_join_its_units(generator):
    mixing = randomise(EdgeMixing(1, 8, 6).double())
    groups = [torch.randn(2, 4, 8, generator=generator, dtype=torch.float64)]
    edges = [torch.randn(2, 4, 4, 6, generator=generator, dtype=torch.float64)]
    order = torch.tensor([2, 0, 3, 1])
    (after,), (mixed,) = mixing(groups, edges, WITHIN)
    (permuted,), (permuted_edges,) = mixing([groups[0][:, order]], [edges[0][:, order][:, :, order]], WITHIN)
    torch.testing.assert_close(permuted, after[:, order], rtol=0, atol=1e-12)
    torch.testing.assert_close(permuted_edges, mixed[:, order][:, :, order], rtol=0, atol=1e-12)
    assert not torch.equal(after, groups[0])


def test_without_edges_nothing_happens(generator):
    groups, _ = random_parts(generator)
    after, mixed = EdgeMixing(0, 8, 6)(groups, [], [])
    assert all(a is b for a, b in zip(after, groups, strict=True))
    assert mixed == []


def test_messages_keep_their_scale_whatever_the_number_of_units(generator):
    mixing = randomise(EdgeMixing(1, 8, 6), scale=0.4)
    for name, parameter in mixing.named_parameters():
        if name.endswith("bias"):
            parameter.data.zero_()  # what all edges share adds up; what differs must not
    sizes = {}
    for num in (8, 512):
        groups = [torch.randn(2, num, 8, generator=generator), torch.randn(2, 16, 8, generator=generator)]
        edges = [torch.randn(2, 16, num, 6, generator=generator)]
        rows = mixing(groups, edges, FROM_SECOND_TO_FIRST)[0][1]
        sizes[num] = (rows - groups[1]).std().item()
    assert 0.4 < sizes[512] / sizes[8] < 2.5  # a plain sum would grow eightfold
