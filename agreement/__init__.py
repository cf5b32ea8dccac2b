"""How far the tasks want the same weights: masks, curves, the watershed, files and figures."""
