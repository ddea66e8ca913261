"""The model commutes with reordering units, for every kind of network that specs can be derived from."""

import pytest
import torch
from builders import LOSS, randomise
from zoo import ZOO

from g_pt.model.transformer import ParameterTransformer
from g_pt.networks.parameters import ParameterLayout
from g_pt.permutations import PermutationSpec


@pytest.mark.parametrize("name", ZOO)
def test_reordered_inputs_give_the_reordered_output(name, generator):
    make, example = ZOO[name]
    network = make().eval()
    layout = ParameterLayout.from_module(network)
    spec = PermutationSpec.from_module(network, example_input=example)
    model = ParameterTransformer(
        layout.to_json(), spec.to_json(), LOSS.to_json(),
        width=16, num_layers=2, num_heads=2, num_frequencies=4, edge_width=8, chunk_size=40,
    )  # fmt: skip
    model = randomise(model, scale=0.1).double()
    x_t, x_start = torch.randn(2, 3, layout.num_params, generator=generator, dtype=torch.float64)
    timesteps = torch.tensor([0, 500, 999])
    starting, prompted = torch.rand(2, 3, generator=generator, dtype=torch.float64) + 0.5
    drawn = spec.draw(layout, 3, generator)

    def permute(x):
        return spec.permute(x, layout, drawn)

    with torch.no_grad():
        output = model(x_t, timesteps, x_start, starting, prompted)
        of_permuted = model(permute(x_t), timesteps, permute(x_start), starting, prompted)
    assert (output - x_start).abs().mean() > 0.01  # the model does something
    assert (of_permuted - permute(output)).abs().max() <= 1e-9
    if drawn:
        assert (permute(output) - output).abs().max() > 0.01  # and the order matters
