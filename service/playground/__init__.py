"""One static page to try the service in a browser; no framework, no build step."""
