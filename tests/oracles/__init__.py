"""Slow, obvious NumPy twins of every native kernel and driver; the compiled code is tested against them."""
