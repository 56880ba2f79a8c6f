"""Where a request's time goes: samples of the served process, sorted into stages."""
