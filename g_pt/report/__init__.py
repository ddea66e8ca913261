"""The report of `gpt-evaluate`: one section per question."""
