"""The adversarial loop: a generator tuned on hard samples, then by GRPO, and what guards it."""
