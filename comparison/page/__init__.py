"""The report page: every result below some folders as one HTML file that opens without a network."""
