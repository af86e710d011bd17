"""What predictions are worth: metrics, intervals by cluster, comparison."""
