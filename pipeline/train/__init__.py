"""Fine-tuning: from shards and a trunk to a checkpoint that can be explained."""
