"""What a layer costs on a target, before it is run."""
