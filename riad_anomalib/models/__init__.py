"""The models of this package, one folder each; anomalib's come first, as in :mod:`riad_anomalib.host`."""

import anomalib.models  # noqa: F401
