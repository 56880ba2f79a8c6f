"""The HTTP service. Knows the domain, onnxruntime and tokenizers; never torch or transformers."""
