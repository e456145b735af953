"""Recipes of finetuning."""
