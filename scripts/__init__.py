"""Tools around the product; none of them is part of the package."""
