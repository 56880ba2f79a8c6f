"""Public moderation sets in one schema, what their labels mean, and how they are mixed."""
