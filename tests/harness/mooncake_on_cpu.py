"""vLLM's MooncakeConnector for engines that run on a CPU.

The connector asks torch for the number of the accelerator in use, which fails where there is none, although Mooncake
itself moves host memory over TCP. vLLM loads this class by the path of its module (`kv_connector_module_path`).
"""

import torch
from vllm.distributed.kv_transfer.kv_connector.v1.mooncake import mooncake_connector

# The only one there is: CPU memory.
torch.accelerator.current_device_index = lambda: 0


class MooncakeOnCpu(mooncake_connector.MooncakeConnector):
    """The connector as it is."""
