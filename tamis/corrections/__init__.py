"""What people say of verdicts: the record, where it is kept, and the commands over it."""
