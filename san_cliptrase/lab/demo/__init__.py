"""The whole project once through on the embedded world: what ``make demo`` runs."""
