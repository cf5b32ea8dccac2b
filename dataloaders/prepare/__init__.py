"""From what the data sets' owners distribute to the file layouts that the loaders read."""
