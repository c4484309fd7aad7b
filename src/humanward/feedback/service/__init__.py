"""The labelling service: FastAPI on the store (extra ``collect``). Never needs torch."""
