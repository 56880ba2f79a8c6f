"""What is around every request, whoever's contract it speaks, and what operators ask."""
