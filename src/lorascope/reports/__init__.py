"""Tables, comparisons and pages of runs and studies; never loads torch."""
