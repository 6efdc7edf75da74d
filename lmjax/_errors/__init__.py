"""How lmjax complains: checks of one argument, advice, warnings that name a line."""
