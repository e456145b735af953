"""Recipes: configuration files, importable as `xdc_tf.configs` through a link."""
