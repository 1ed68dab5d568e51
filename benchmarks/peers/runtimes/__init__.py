"""Adapters: `open_side` of another runtime for `sparsecc/bench/worker.py`, one file per peer.

An adapter runs in the peer's environment and imports nothing of this project. `open_side(job,
feeds)` gives what is timed and what turns its result into outputs by name. A peer with a format of
its own also has a command line: `<adapter> MODEL.onnx RESULT OPTIONS` converts a model, the options
being JSON. Inputs are copied in before the clock starts, which is in the peers' favour.
"""
