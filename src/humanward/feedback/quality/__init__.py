"""How good the feedback is: models of noisy annotators, gold items, suspicious patterns. numpy and scipy alone."""
