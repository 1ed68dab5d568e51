"""Dense feed-forward networks become mixtures of experts: MoEfication.

Source: Zhang et al., MoEfication: Transformer Feed-forward Layers are Mixtures of Experts
(arXiv 2110.01786).
"""
