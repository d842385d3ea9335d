"""Choose where a policy network and a value network separate, on TorchRL.

`import decouple` imports neither PyTorch nor TorchRL: a name is imported when it is first used, from the home that
`__init__.pyi` tells.
"""

import lazy_loader

from decouple._moved import refuse_old_paths
from decouple.version import VERSION

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__version__ = VERSION
refuse_old_paths()
