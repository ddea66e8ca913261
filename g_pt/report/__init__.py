"""What `gpt-evaluate` says about a model, one section per question."""
