"""A tuned rate for another batch size, width, depth or length."""

from etude.tuning.transfer.transfer import Transfer as Transfer
from etude.tuning.transfer.transfer import transfer as transfer
