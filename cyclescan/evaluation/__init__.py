"""How good translated volumes are: measures, histograms, baselines, and the pictures of a report."""
