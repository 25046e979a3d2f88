"""Configuration files; a package so that Hydra finds them after `pip install`."""
