"""Trained models as SavedModels: what is in the graph, and what lies in the folder."""
