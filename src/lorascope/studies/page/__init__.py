"""The page of a study: one HTML file that asks nothing of any server, its charts drawn as SVG."""
