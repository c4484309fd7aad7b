"""The store of the labelling service: SQLAlchemy on SQLite or PostgreSQL (extra ``collect``). Never needs torch."""
