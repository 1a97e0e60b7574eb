"""A run as a whole: a recipe's parts put together, trained and validated."""
