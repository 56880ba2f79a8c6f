"""The reasoner: its bundle on disk, and how it is asked and answers."""
