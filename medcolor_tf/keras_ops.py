"""Keras' operations for code that computes with them, as what they are to a type checker: Any.

Keras annotates none of them. Of their results pyright finds the union over all backends, with None
for the functions of OpenVINO's that only raise; and which of these it sees in a file depends on
the files that it read before. So no module takes ``keras.ops`` by another way.
"""

from typing import Any

import keras

ops: Any = keras.ops
