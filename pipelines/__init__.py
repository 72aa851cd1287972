"""The stages of the retraining pipeline, each a small command line; dvc.yaml connects them."""
