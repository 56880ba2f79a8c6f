"""The policy that ships, and how policies are read."""
