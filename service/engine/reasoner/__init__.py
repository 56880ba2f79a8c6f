"""Running the reasoner: read a policy once, judge a text in one run, write why."""
