"""Exact AUC and what is computed from predictions."""

from medcolor_tf.evaluation.metrics import mean_auc, roc_auc

__all__ = ["mean_auc", "roc_auc"]
