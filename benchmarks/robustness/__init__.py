"""How much an obfuscated text still says to the engine: transformations, and a greedy attacker."""
