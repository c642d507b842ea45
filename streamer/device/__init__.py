"""The device: a batch of events becomes a batch of answers, on a GPU or the CPU.

runner   the thread that encodes, runs the model and decodes; a batch that fails is halved
devices  the CPU and a CUDA device, with one shape: `launch` starts a batch, its result is waited for
failures  what an exception of the worker or of the device means, and what may be told of it
graphs   which CUDA graphs are recorded, and which recording serves a batch
"""

__all__ = ["devices", "failures", "graphs", "runner"]
