"""Published sets of trained networks: schema, card, checksums, loading.

zoo = rd.zoo.save("sweep_folder", "zoo")      # also of named arrays
zoo = rd.zoo.load("zoo")                      # or "owner/name" on the hub
zoo.table["mechanism"], zoo.rows(mechanism="limit_cycle", delay=0.1)
zoo.weights(rows), zoo.curves(rows)           # NumPy
zoo.ensemble(rows)                            # a model with a leading axis
"""

from ._hub import load as load, pull as pull, push as push
from ._paper_layout import read_paper_layout as read_paper_layout
from ._schema import (
    CURVES as CURVES,
    SCHEMA as SCHEMA,
    TABLE as TABLE,
    WEIGHTS as WEIGHTS,
    Field as Field,
)
from ._store import save as save, validate as validate
from ._zoo import Zoo as Zoo
