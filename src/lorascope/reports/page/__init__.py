"""The page of a study: one HTML file that asks no server for anything."""
