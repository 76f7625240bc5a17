"""How the tiny set is made: readable recipes, one command each (``python -m training``)."""
