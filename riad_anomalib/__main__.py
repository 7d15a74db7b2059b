"""``python -m riad_anomalib``: anomalib's command line with this package's models, also where the hook is off."""

from anomalib.cli.cli import main

from riad_anomalib.plugin import import_models

if __name__ == "__main__":
    import_models()
    main()
