"""What operators do beside the pipeline: redrive, dead letters, reconcile, maintenance."""
