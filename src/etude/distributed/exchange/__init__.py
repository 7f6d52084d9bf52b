"""How the processes of a run exchange gradients: the ways, what each sends, and when it holds."""

from etude.distributed.exchange.counting import CountingGroup as CountingGroup
from etude.distributed.exchange.table import EXCHANGES as EXCHANGES
from etude.distributed.exchange.table import exchange_of as exchange_of
