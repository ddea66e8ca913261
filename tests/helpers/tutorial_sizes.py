"""The tutorial in seconds: its numbers, scaled down."""

# what takes minutes there, and what it becomes here
SMALLER = {
    "range(400)": "range(60)",
    "range(241)": "range(61)",
    "step % 12": "step % 6",
    "width: 64, num_layers: 3": "width: 48, num_layers: 2",
    "num_steps: 1000": "num_steps: 250",
    "num_steps: 150": "num_steps: 30",
    "--optimizer.num-steps 1500 --alignment.num-steps 200": "--optimizer.num-steps 250 --alignment.num-steps 30",
    "--num-runs 1000": "--num-runs 200",
}


def scaled(text: str) -> str:
    """A piece of the page with the smaller numbers."""
    for long, short in SMALLER.items():
        text = text.replace(long, short)
    return text
