"""What a network says of an image of which only a part is different from a known one, without computing the rest anew.

It reads a :class:`~ADAttributionLogic.graph.layer_graph.LayerGraph` and a recorded pass, and knows no method.
"""
