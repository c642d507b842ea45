"""Model folders: what a worker loads, and the proof that it is what was trained.

folder      one version: read, verified, written
manifest    `model.toml`: what a folder says of itself
signatures  ed25519 signatures of manifests
"""

from streamer.models.folder import Model, find, pin, sign, write
from streamer.models.manifest import Description, Manifest

__all__ = ["Description", "Manifest", "Model", "find", "manifest", "pin", "sign", "write"]
