"""Messages of libraries that nobody can do anything about: not shown. Imports neither of them."""

from __future__ import annotations

import logging
import warnings
from functools import cache


@cache
def hide_library_messages() -> None:
    """Hide torch's request to file an issue for each operator, and diffusers' list of modules that is empty.

    torch.vmap runs an operator that it has no rule for network by network, and asks for an issue. diffusers warns at
    every change of dtype of modules that it should not change, also where a model has none.
    """
    warnings.filterwarnings("ignore", "There is a performance drop because we have not yet implemented the batching")
    logging.getLogger("diffusers.models.modeling_utils").addFilter(
        lambda record: "should be kept in float32: []" not in record.getMessage()
    )
