"""The policy reasoner: policy-conditioned examples, cold start, GRPO and its evaluation."""
