"""Making a study: design, schedule, runner."""
