"""Contents of the report, in order. Imports no section before it is asked for."""

from __future__ import annotations

from importlib import import_module

from g_pt.report.section import MeasureSection

# name -> module:function, a `MeasureSection`
SECTIONS = {
    "prompting": "g_pt.report.prompting:measure_prompting",
    "recursion": "g_pt.report.recursion:measure_recursion",
    "samples": "g_pt.report.samples:measure_samples",
    "inits": "g_pt.report.inits:measure_inits",
    "optimizers": "g_pt.report.optimizers:measure_optimizers",
    "population": "g_pt.report.population:measure_population",
    "novelty": "g_pt.report.novelty:measure_novelty",
    "start_use": "g_pt.report.start_use:measure_start_use",
    "landscape": "g_pt.report.landscape:measure_landscape",
    "sizes": "g_pt.report.sizes:measure_sizes",
    "latent_walk": "g_pt.report.latent_walk:measure_latent_walk",
}
# those that say more where the training runs are at hand
USE_RUNS = {"inits", "novelty", "start_use", "landscape"}


def load_section(name: str) -> MeasureSection:
    """The function of a section.

    Raises:
        ValueError: no section has this name.
    """
    if name not in SECTIONS:
        raise ValueError(f"there is no section {name!r}; sections are {list(SECTIONS)}")
    module, _, function = SECTIONS[name].partition(":")
    found: MeasureSection = getattr(import_module(module), function)
    return found
