"""What every dialect does with what it has read: check limits, judge, decide, mask, follow."""
