"""The exchange between units and the edges that join them; see `g_pt.model.tokens` for what they are.

B = batch, W = width, U = units of a group, R / C = units of the groups at the two ends of an edge, E = edge width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from g_pt.permutations.plans import EdgePart


class EdgeMixing(nn.Module):
    """One exchange within every pair of groups that has edges, pair by pair."""

    def __init__(self, num_kinds: int, width: int, edge_width: int) -> None:
        """`num_kinds` of edges, each with weights of its own."""
        super().__init__()
        self.mixings = nn.ModuleList(PairMixing(width, edge_width) for _ in range(num_kinds))

    def forward(
        self, groups: list[Tensor], edges: list[Tensor], parts: Sequence[EdgePart]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Units [(B, U, W)] and edges [(B, R, C, E)], whose kinds and groups `parts` tell, to the same, renewed."""
        groups, mixed = list(groups), []
        for part, edge in zip(parts, edges, strict=True):
            # (B, R, W), (B, C, W), (B, R, C, E)
            to_rows, to_columns, edge = self.mixings[part.kind](groups[part.row], groups[part.column], edge)
            groups[part.row] = groups[part.row] + to_rows
            groups[part.column] = groups[part.column] + to_columns
            mixed.append(edge)
        return groups, mixed


class PairMixing(nn.Module):
    """The exchange within one pair of groups: edges learn from the units at both ends, units from their edges."""

    def __init__(self, width: int, edge_width: int) -> None:
        super().__init__()
        self.norm_rows, self.norm_columns = nn.LayerNorm(width), nn.LayerNorm(width)
        self.norm_edges = nn.LayerNorm(edge_width)
        self.from_rows, self.from_columns = nn.Linear(width, 2 * edge_width), nn.Linear(width, 2 * edge_width)
        self.edge_in, self.edge_out = nn.Linear(edge_width, edge_width), nn.Linear(edge_width, edge_width)
        self.to_rows, self.to_columns = nn.Linear(edge_width, width), nn.Linear(edge_width, width)

    def forward(self, rows: Tensor, columns: Tensor, edges: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Units (B, R, W) and (B, C, W) and edges (B, R, C, E): what to add to the units, and the new edges."""
        row_shift, row_gate = self.from_rows(self.norm_rows(rows)).chunk(2, dim=-1)  # (B, R, E)
        column_shift, column_gate = self.from_columns(self.norm_columns(columns)).chunk(2, dim=-1)  # (B, C, E)
        hidden = self.edge_in(self.norm_edges(edges)) + row_shift[:, :, None] + column_shift[:, None]  # (B, R, C, E)
        edges = edges + self.edge_out(F.gelu(hidden))  # (B, R, C, E)
        num_rows, num_columns = edges.shape[1:3]
        # sums over R or C units, over their root: unit variance whatever the size of the group
        to_rows = (edges * column_gate[:, None]).sum(dim=2) * num_columns**-0.5  # (B, R, E)
        to_columns = (edges * row_gate[:, :, None]).sum(dim=1) * num_rows**-0.5  # (B, C, E)
        return self.to_rows(to_rows), self.to_columns(to_columns), edges
