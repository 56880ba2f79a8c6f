"""What is told of requests and verdicts: metrics, logs, traces, audit log; never a text."""
