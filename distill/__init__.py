"""Teachers and the students distilled from them."""
