"""A recipe as code for other people's loops."""

from etude.export.pytorch import pytorch_code

__all__ = ["pytorch_code"]
