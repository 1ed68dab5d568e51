"""A trained ImageNet CNN (EfficientNet-Lite0), compiled from torch."""
