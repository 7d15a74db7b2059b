"""``python -m riad_anomalib``: anomalib's command line with this package's models, also where the hook is off."""

from anomalib.cli.cli import main

import riad_anomalib.models.riad  # noqa: F401  registers

if __name__ == "__main__":
    main()
