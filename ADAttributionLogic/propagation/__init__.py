"""How relevance goes back through one operation: the rules of LRP, bounds, products, and what is kept on the way."""
