"""Converters of published annotations to COCO json: ``visdrone`` and ``dota2``."""
